"""The relay's port over real sockets: who passes, what passes, and what happens when one side goes.

The engine behind it is a small server on a Unix socket that keeps what it was asked.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.relay.access import Access
from agents.relay.exchange import HEAD_LIMIT_BYTES, WAITING_LIMIT_BYTES, Front
from tests.agents.fakes import EngineServer

KEY = "relay-key"
DEADLINE_SECONDS = 10.0
CHAT = b"POST /r/r1/v1/chat/completions HTTP/1.1"
STREAM = b"POST /r/r1/v1/completions HTTP/1.1"


@dataclass
class Relay:
    config: Path
    engine: EngineServer
    access: Access
    fronts: set[Front] = field(default_factory=set)
    server: asyncio.Server | None = None
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def configure(self, routes: dict[str, str], keys: tuple[str, ...] = (KEY,)) -> None:
        digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
        draft = self.config.with_suffix(".draft")
        draft.write_text(json.dumps({"routes": routes, "keys": digests}))
        draft.replace(self.config)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        health = b'{"status": "ok"}'
        self.server = await loop.create_server(
            lambda: Front(self.access, health, self.fronts), "127.0.0.1", 0
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.server is not None
        port = self.server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
        assert self.server is not None
        self.server.close()
        await self.engine.close()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    engine = EngineServer(tmp_path / "e.sock")
    engine.is_ready.set()
    await engine.open()
    made = Relay(tmp_path / "relay.json", engine, Access(tmp_path / "relay.json"))
    made.configure({"r1": f"unix:{engine.socket}"})
    await made.open()
    yield made
    await made.close()


def request(line: bytes, body: bytes = b"", key: str = KEY, *more: bytes) -> bytes:
    lines = [line, b"host: relay", b"authorization: Bearer " + key.encode()]
    lines += [b"content-length: %d" % len(body)] if body else []
    return b"\r\n".join([*lines, *more]) + b"\r\n\r\n" + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    """Return status and JSON body of an answer with a length."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r")[0])
        return int(head.split(" ")[1]), json.loads(await reader.readexactly(length))


async def ask(relay: Relay, *parts: bytes) -> tuple[int, dict[str, object]]:
    reader, writer = await relay.connect()
    for part in parts:
        writer.write(part)
        await writer.drain()
    return await answer(reader)


class TestWhoPasses:
    @pytest.mark.parametrize(
        "header",
        [b"", b"authorization: Bearer wrong", b"authorization: Bearer ", b"authorization: Basic x"],
        ids=["none", "wrong", "empty", "basic"],
    )
    async def test_nobody_without_a_known_key(self, relay: Relay, header: bytes) -> None:
        line = b"GET /r/r1/v1/models HTTP/1.1\r\nhost: relay\r\n" + header
        status, body = await ask(relay, line.rstrip(b"\r\n") + b"\r\n\r\n")

        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        assert relay.engine.seen == []

    async def test_each_of_several_keys(self, relay: Relay) -> None:
        relay.configure({"r1": f"unix:{relay.engine.socket}"}, keys=("old", "new"))

        assert (await ask(relay, request(b"GET /r/r1/v1/models HTTP/1.1", key="new")))[0] == 200
        assert (await ask(relay, request(b"GET /r/r1/v1/models HTTP/1.1", key="old")))[0] == 200

    async def test_a_new_key_without_a_restart(self, relay: Relay) -> None:
        assert (await ask(relay, request(b"GET /r/r1/health HTTP/1.1", key="later")))[0] == 401

        relay.configure({"r1": f"unix:{relay.engine.socket}"}, keys=("later",))
        relay.access.monotonic = lambda: float("inf")

        assert (await ask(relay, request(b"GET /r/r1/health HTTP/1.1", key="later")))[0] == 200

    async def test_the_health_of_the_relay_needs_no_key(self, relay: Relay) -> None:
        status, body = await ask(relay, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")

        assert (status, body) == (200, {"status": "ok"})


class TestWhatPasses:
    @pytest.mark.parametrize(
        "line",
        [
            b"POST /r/r1/sleep", b"POST /r/r1/collective_rpc", b"POST /r/r1/invocations",
            b"POST /r/r1/v1/load_lora_adapter", b"GET /r/r1/metrics", b"GET /r/r1/openapi.json",
            b"GET /r/r1/v1/chat/completions", b"DELETE /r/r1/v1/models",
            b"POST /r/r1/v1/../sleep", b"POST /r/r1//sleep", b"POST /r/r1/v1/%73leep",
            b"POST /sleep", b"GET /", b"POST /r/r1/v1/chat/completions/",
        ],
    )  # fmt: skip
    async def test_nothing_but_inference(self, relay: Relay, line: bytes) -> None:
        status, body = await ask(relay, request(line + b" HTTP/1.1"))

        assert (status, body["error"]["code"]) == (404, "unknown_path")
        assert relay.engine.seen == []

    async def test_no_replica_of_another_host(self, relay: Relay) -> None:
        status, body = await ask(relay, request(b"GET /r/r2/v1/models HTTP/1.1"))

        assert (status, body["error"]["code"]) == (404, "unknown_replica")

    async def test_the_head_without_what_belongs_between_hops(self, relay: Relay) -> None:
        extra = (b"x-request-id: abc", b"proxy-authorization: secret", b"te: trailers")

        await ask(relay, request(CHAT, b"{}", KEY, *extra))

        line, headers, body = relay.engine.seen[0]
        assert line == "POST /v1/chat/completions HTTP/1.1"
        assert headers == {"host": "engine", "x-request-id": "abc", "content-length": "2"}
        assert body == b"{}"

    async def test_a_query(self, relay: Relay) -> None:
        await ask(relay, request(b"GET /r/r1/v1/models?a=1&b=2 HTTP/1.1"))

        assert relay.engine.seen[0][0] == "GET /v1/models?a=1&b=2 HTTP/1.1"

    async def test_a_body_of_a_megabyte_in_pieces(self, relay: Relay) -> None:
        body = bytes(range(256)) * 4096
        head = request(CHAT, body)[: -len(body)]

        status, _ = await ask(relay, head, body[:100], body[100:700_000], body[700_000:])

        assert status == 200
        assert relay.engine.seen[0][2] == body

    async def test_a_body_in_chunks(self, relay: Relay) -> None:
        head = request(CHAT, b"", KEY, b"transfer-encoding: chunked")

        status, _ = await ask(relay, head, b"5\r\nhello\r\n", b"6\r\n world\r\n0\r\n\r\n")

        assert status == 200
        assert relay.engine.seen[0][2] == b"hello world"

    async def test_requests_one_after_the_other_on_one_connection(self, relay: Relay) -> None:
        reader, writer = await relay.connect()

        for _ in range(3):
            writer.write(request(CHAT, b"{}"))
            assert (await answer(reader))[0] == 200

        assert len(relay.engine.seen) == 3

    async def test_an_expectation_is_met_by_the_relay(self, relay: Relay) -> None:
        reader, writer = await relay.connect()
        writer.write(request(CHAT, b"{}", KEY, b"expect: 100-continue")[:-2])

        first = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")

        assert first.startswith(b"HTTP/1.1 100")
        assert (await answer(reader))[0] == 200


class TestWhatIsNoRequest:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02\x00nonsense\r\n\r\n",
            CHAT + b"\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
            CHAT + b"\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        ],
        ids=["tls", "two framings", "two lengths"],
    )
    async def test_is_refused(self, relay: Relay, data: bytes) -> None:
        status, _ = await ask(relay, data)

        assert status == 400
        assert relay.engine.seen == []

    async def test_is_a_head_without_end(self, relay: Relay) -> None:
        limit = HEAD_LIMIT_BYTES + WAITING_LIMIT_BYTES
        reader, writer = await relay.connect()
        writer.write(CHAT + b"\r\n" + b"x-filler: " + b"a" * limit)

        assert (await answer(reader))[0] == 400

    async def test_a_second_request_before_the_answer_is_not_read(self, relay: Relay) -> None:
        reader, writer = await relay.connect()
        writer.write(request(CHAT, b"{}") + request(b"GET /r/r1/health HTTP/1.1"))

        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""
        assert len(relay.engine.seen) == 1


class TestAStream:
    async def test_comes_as_it_is_made(self, relay: Relay) -> None:
        reader, writer = await relay.connect()
        writer.write(request(STREAM, b"{}"))

        assert (await reader.readuntil(b"first\r\n")).endswith(b"5\r\nfirst\r\n")
        relay.engine.gate.set()

        assert await reader.readuntil(b"0\r\n\r\n") == b"4\r\nlast\r\n0\r\n\r\n"

    async def test_ends_at_the_engine_when_the_client_goes(self, relay: Relay) -> None:
        reader, writer = await relay.connect()
        writer.write(request(STREAM, b"{}"))
        await reader.readuntil(b"first\r\n")

        writer.close()

        async with asyncio.timeout(DEADLINE_SECONDS):
            await relay.engine.closed_by_client.wait()

    async def test_is_cut_and_not_ended_when_the_engine_dies(self, relay: Relay) -> None:
        reader, writer = await relay.connect()
        writer.write(request(STREAM, b"{}"))
        await reader.readuntil(b"first\r\n")

        await relay.engine.crash()

        assert b"0\r\n\r\n" not in await reader.read()

    async def test_is_read_no_faster_than_the_client_takes_it(self, relay: Relay) -> None:
        relay.engine.flood_bytes = 64 << 20
        reader, writer = await relay.connect()
        writer.write(request(STREAM, b"{}"))
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()

        await relay.engine.until_stuck()

        assert relay.engine.flooded_bytes < 16 << 20


class TestAnEngineThatIsNotThere:
    async def test_is_told_as_a_bad_gateway(self, relay: Relay) -> None:
        await relay.engine.close()

        status, body = await ask(relay, request(CHAT, b"{}"))

        assert (status, body["error"]["code"]) == (502, "engine_unreachable")

    async def test_that_dies_before_it_answers_too(self, relay: Relay) -> None:
        relay.engine.mute = True
        reader, writer = await relay.connect()
        writer.write(request(CHAT, b"{}"))
        await relay.engine.until_asked()

        await relay.engine.crash()

        assert (await answer(reader))[0] == 502


class TestLeaving:
    async def test_lets_a_stream_end_and_takes_nothing_new(self, relay: Relay) -> None:
        idle_reader, _ = await relay.connect()
        reader, writer = await relay.connect()
        writer.write(request(STREAM, b"{}"))
        await reader.readuntil(b"first\r\n")

        for front in list(relay.fronts):
            front.leave()
        relay.engine.gate.set()

        assert (await reader.read()).endswith(b"0\r\n\r\n")
        assert await idle_reader.read() == b""
