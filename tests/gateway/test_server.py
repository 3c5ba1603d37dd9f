"""The HTTP front: what it takes, what it refuses, and that nothing ambiguous gets through."""

import asyncio
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.request import Request
from gateway.server import ClientConnection
from gateway.settings import Limits
from tests.gateway.harness import CHAT, PATH, gateway, model, table
from tests.gateway.upstream import Asked, running, whole_chat

BODY = json.dumps(CHAT).encode()
AUTH = b"Authorization: Bearer sk-one\r\n"


def post(*lines: bytes, body: bytes = BODY, path: bytes = PATH.encode()) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + AUTH + b"".join(lines) + b"\r\n" + body


def sized(body: bytes = BODY) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


async def talk(gw, data: bytes) -> tuple[list[int], bool]:
    """Send `data` on one connection; return the statuses that came and whether it was closed."""
    client = await gw.client()
    client.send(data)
    statuses = []
    closed = False
    try:
        while True:
            async with asyncio.timeout(0.2):
                statuses.append((await client.answer()).status)
    except TimeoutError:
        pass
    except (EOFError, ConnectionError):
        closed = True
    client.close()
    return statuses, closed


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (post(sized(), b"Transfer-Encoding: chunked\r\n"), 400),
            (post(sized(), sized()), 400),
            (post(sized(), b"X: a\r\n b\r\n"), 400),
            (post(b"Content-Length: +5\r\n"), 400),
            (post(b"Content-Length: -5\r\n"), 400),
            (post(b"Content-Length : 5\r\n"), 400),
            (post(b"Transfer-Encoding: chunked\r\n", body=b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
            (post(b"Transfer-Encoding: chunked\r\n", body=b"-1\r\nhello\r\n0\r\n\r\n"), 400),
            (post(b"Transfer-Encoding: chunked\r\n", body=b"f" * 20 + b"\r\n"), 400),
            (post(b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"), 501),
            (post(b"Transfer-Encoding: identity\r\n", body=b""), 501),
            (b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
            (b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
            (post(sized(), b"Host: y\r\n"), 400),
            (post(sized(), AUTH), 400),
            (b"POST /x HTTP/1.1\nHost: x\n\n", 400),
            (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00", 400),
            (post(sized(), b"Expect: a miracle\r\n"), 417),
            (post(*[b"X-%d: y\r\n" % n for n in range(200)], sized()), 431),
            (post(b"X: " + b"y" * 40_000 + b"\r\n", sized())[:-len(BODY)-2], 431),
            (post(b"Content-Length: 99999999999\r\n", body=b""), 413),
        ],
        ids=lambda value: str(value)[:60],
    )  # fmt: skip
    async def test_shapes_that_could_be_read_in_two_ways(self, tmp_path, data, status):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            statuses, closed = await talk(gw, data)

            assert statuses == [status]
            assert closed
            assert up.asked == []

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (post(sized(), path=b"/v1/nothing"), 404),
            (b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\n" + AUTH + b"\r\n", 405),
            (b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
            (b"OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\n\r\n", 405),
            (post(sized(b"{nope"), body=b"{nope"), 400),
            (post(sized(b"[]"), body=b"[]"), 400),
            (post(sized(b"{}"), body=b"{}"), 400),
            (post(sized(b'{"model":7}'), body=b'{"model":7}'), 400),
            (post(sized(b"[" * 50_000), body=b"[" * 50_000), 400),
        ],
        ids=lambda value: str(value)[:60],
    )  # fmt: skip
    async def test_requests_that_can_never_work(self, tmp_path, data, status):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            statuses, closed = await talk(gw, data)

            assert statuses == [status]
            assert not closed
            assert up.asked == []

    async def test_name_the_field_that_is_wrong(self, tmp_path):
        async with gateway(tmp_path, table({"m": model()})) as gw:
            wrong_type = await gw.chat({**CHAT, "stream": "yes"})
            too_many = await gw.chat({**CHAT, "n": 10_000})

            assert "$.stream" in wrong_type.error["message"]
            assert too_many.error["param"] == "n"

    async def test_speak_anthropic_on_anthropics_path(self, tmp_path):
        async with gateway(tmp_path, table({"m": model()})) as gw:
            client = await gw.client()
            client.post("/v1/messages", CHAT, key=None)
            answer = await client.answer()

            assert answer.status == 401
            assert answer.json["type"] == "error"
            assert answer.error["type"] == "authentication_error"

    async def test_a_body_over_the_limit_is_413_before_it_is_read(self, tmp_path):
        limits = Limits(body_bytes=1000)
        async with running() as up, gateway(
            tmp_path, table({"m": model(up)}), limits=limits
        ) as gw:  # fmt: skip
            chunks = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(3))
            by_length, _ = await talk(gw, post(sized(b"x" * 2000), body=b""))
            by_chunks, _ = await talk(gw, post(b"Transfer-Encoding: chunked\r\n", body=chunks))

            assert (by_length, by_chunks) == ([413], [413])
            assert up.asked == []

    async def test_slow_heads_and_bodies_are_timed_out(self, tmp_path):
        limits = Limits(head_timeout_seconds=0.05, body_timeout_seconds=0.05)
        async with gateway(tmp_path, table({"m": model()}), limits=limits) as gw:
            head, head_closed = await talk(gw, b"POST / HTTP/1.1\r\nHost: x\r\n")
            body, body_closed = await talk(gw, post(sized(), body=b"{"))

            assert (head, body) == ([408], [408])
            assert head_closed
            assert body_closed

    async def test_idle_connections_are_closed(self, tmp_path):
        async with gateway(
            tmp_path, table({"m": model()}), limits=Limits(keep_alive_seconds=0.05)
        ) as gw:
            client = await gw.client()

            assert await client.is_closed()

    async def test_connections_beyond_the_limit_hear_503(self, tmp_path):
        async with gateway(tmp_path, table({"m": model()}), limits=Limits(connections=1)) as gw:
            first = await gw.client()
            first.get("/healthz")
            await first.answer()
            second = await gw.client()

            assert (await second.answer()).status == 503
            first.close()


class TestAccepted:
    async def test_chunked_bodies_reach_the_engine_with_a_length(self, tmp_path):
        pieces = [BODY[:10], BODY[10:11], BODY[11:]]
        chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        data = post(b"Transfer-Encoding: chunked\r\n", body=chunks + b"0\r\nTrailer: x\r\n\r\n")
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            statuses, closed = await talk(gw, data)

            assert (statuses, closed) == ([200], False)
            assert up.asked[0].body == BODY
            assert up.asked[0].headers["content-length"] == str(len(BODY))
            assert "transfer-encoding" not in up.asked[0].headers

    async def test_a_connection_carries_one_request_after_another(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            statuses = []
            for _ in range(3):
                client.post(PATH, CHAT)
                statuses.append((await client.answer()).status)

            assert statuses == [200] * 3
            assert up.connections == 1
            client.close()

    async def test_a_request_may_come_byte_by_byte(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            for byte in post(sized()):
                client.send(bytes([byte]))
                await asyncio.sleep(0)

            assert (await client.answer()).status == 200
            client.close()

    async def test_pipelined_requests_get_one_answer_and_a_refusal(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            statuses, closed = await talk(gw, post(sized()) * 3)

            assert statuses == [200, 400]
            assert closed
            assert len(up.asked) == 1

    async def test_pipelining_during_an_answer_is_refused_too(self, tmp_path):
        go_on = asyncio.Event()

        async def slow(asked: Asked) -> None:
            await go_on.wait()
            await whole_chat(asked)

        async with running(slow) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.send(post(sized()))
            await up.wait_for(1)
            client.send(post(sized()))
            await asyncio.sleep(0.05)
            go_on.set()

            assert (await client.answer()).status == 200
            assert (await client.answer()).status == 400
            assert await client.is_closed()
            assert len(up.asked) == 1

    async def test_expect_100_continue_is_met(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.send(post(sized(), b"Expect: 100-continue\r\n", body=b""))
            interim = await client.reader.readuntil(b"\r\n\r\n")
            client.send(BODY)

            assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert (await client.answer()).status == 200
            client.close()

    async def test_an_offer_of_http2_is_answered_in_http1(self, tmp_path):
        offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            statuses, _ = await talk(gw, post(offer, sized()))

            assert statuses == [200]
            assert up.asked[0].body == BODY

    async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(self, tmp_path):
        body = json.dumps({**CHAT, "stream": True}).encode()
        data = post(sized(body), body=body).replace(b"HTTP/1.1", b"HTTP/1.0")
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.send(data)
            content = await asyncio.wait_for(client.reader.read(), 5)

            assert b"chunked" not in content
            assert content.endswith(b"data: [DONE]\n\n")

    async def test_cors_is_for_the_origins_that_were_given(self, tmp_path):
        async with running() as up, gateway(
            tmp_path, table({"m": model(up)}), cors_origins=("https://app",)
        ) as gw:  # fmt: skip
            client = await gw.client()
            line = b"OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: https://app\r\n\r\n"
            client.send(line)
            preflight = await client.answer()
            granted = await gw.chat(origin="https://app")
            other = await gw.chat(origin="https://evil")

            assert preflight.status == 204
            assert preflight.headers["access-control-allow-origin"] == "https://app"
            assert granted.headers["access-control-allow-origin"] == "https://app"
            assert "access-control-allow-origin" not in other.headers
            client.close()

    async def test_local_answers(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            await gw.chat()
            health, ready = await gw.get("/healthz", None), await gw.get("/readyz", None)
            metrics = await gw.get("/metrics", None)
            one = await gw.get("/v1/models/m")

            assert (health.status, ready.status) == (200, 200)
            assert ready.json["table_revision"] == 1
            assert b'hearth_gateway_deployment_requests_total{deployment="m"} 1.0' in metrics.body
            assert one.json["id"] == "m"
            assert (await gw.get("/v1/models", None)).status == 401
            gw.core.is_draining = True
            assert (await gw.get("/readyz", None)).status == 503


SPICE = [
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n", b"transfer-encoding:\tchunked\r\n", b"\r\n", b"\n", b"\r",
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"GET /admin HTTP/1.1\r\nHost: y\r\n\r\n", b" ", b"\x00", BODY,
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: websocket\r\n",
    b"Connection: upgrade\r\n", b"Host: z\r\n", b"X:\x0bY\r\n", b"POST ", b" HTTP/1.1\r\n", sized(),
]  # fmt: skip


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.is_open = True

    def write(self, data: bytes) -> None:
        assert self.is_open, "written after the end"
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.is_open = False

    abort = close

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class Taker:
    """An application that answers at once and remembers what it was given."""

    limits = Limits(body_bytes=10_000)
    is_draining = False

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, bytes, bytes]] = []

    def handle(self, client: ClientConnection, request: Request) -> None:
        self.taken.append((request.method, request.path, request.body))
        client.answer(200, b"ok", kind=b"text/plain")

    def connected(self, client: ClientConnection) -> bool:
        return True

    def disconnected(self, client: ClientConnection) -> None:
        pass


def fed(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], Wire]:
    """Give `pieces` to a connection, as long as it is open; return what it took."""
    taker, wire = Taker(), Wire()
    connection = ClientConnection(taker)
    connection.connection_made(wire)
    for piece in pieces:
        if wire.is_open:
            connection.data_received(piece)
    return taker.taken, wire


class Streaming(Taker):
    """An application that answers with two pieces."""

    def handle(self, client: ClientConnection, request: Request) -> None:
        client.begin(200, kind=b"text/event-stream", first=b"one")
        client.end(last=b"two")


class TestWrites:
    def test_a_head_goes_with_the_first_piece_and_the_end_with_the_last(self):
        wire = Wire()
        connection = ClientConnection(Streaming())
        connection.connection_made(wire)

        connection.data_received(post(sized(), body=BODY))

        head, _, body = wire.written.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        assert (wire.writes, connection.bytes_out) == (2, 6)


class TestFuzz:
    @settings(max_examples=400, deadline=None)
    @given(
        parts=st.lists(st.sampled_from(SPICE) | st.binary(max_size=12), max_size=8),
        cuts=st.lists(st.integers(1, 500), max_size=5),
        is_valid_start=st.booleans(),
    )
    def test_no_bytes_crash_it_or_are_read_in_two_ways(self, parts, cuts, is_valid_start):
        data = b"".join(parts)
        if is_valid_start:
            data = post(sized()) + data
        marks = [0, *sorted(set(cuts)), len(data)]
        pieces = [data[start:end] for start, end in itertools.pairwise(marks)]

        at_once, wire = fed([data])
        in_pieces, _ = fed([piece for piece in pieces if piece])
        by_byte, _ = fed([bytes([byte]) for byte in data])

        assert len(at_once) <= 1  # the rest would be pipelining
        assert at_once == in_pieces[:1] == by_byte[:1]
        assert in_pieces == by_byte[: len(in_pieces)]
        assert wire.written.count(b"HTTP/1.1 200") == len(at_once)
        if is_valid_start:
            assert at_once == [(b"POST", PATH.encode(), BODY)]

    @settings(max_examples=300, deadline=None)
    @given(body=st.binary(max_size=300), sizes=st.lists(st.integers(1, 40), max_size=20))
    def test_a_chunked_body_arrives_as_it_was_sent(self, body, sizes):
        left, chunks = body, b""
        for size in sizes:
            piece, left = left[:size], left[size:]
            chunks += b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        chunks += b"%x\r\n%b\r\n" % (len(left), left) if left else b""
        data = post(b"Transfer-Encoding: chunked\r\n", body=chunks + b"0\r\n\r\n")

        taken, _ = fed([data])

        assert taken == [(b"POST", PATH.encode(), body)]
