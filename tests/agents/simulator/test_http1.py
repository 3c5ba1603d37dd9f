"""The simulator's HTTP front, spoken to over raw sockets."""

import asyncio
import json
import socket

import psutil
import pytest

from tests.contract.engine_contract import metric
from tests.simulator_host import MODEL, running

DEADLINE_SECONDS = 10.0
GENERATED = "vllm:generation_tokens_total"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    with running(tmp_path_factory.mktemp("http1"), "--decode-seconds-per-token=0.00001") as one:
        yield one


async def talk(simulator, data: bytes) -> bytes:
    """Send `data` and return all that comes until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(simulator.socket))
    writer.write(data)
    async with asyncio.timeout(DEADLINE_SECONDS):
        reply = await reader.read()
    writer.close()
    return reply


def post(body: dict, *headers: str) -> bytes:
    data = json.dumps({"model": MODEL, **body}).encode()
    head = ["POST /v1/completions HTTP/1.1", "host: x", f"content-length: {len(data)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + data


async def test_requests_sent_at_once_are_answered_in_order(simulator):
    first = post({"prompt": "a", "max_tokens": 50, "ignore_eos": True})
    second = b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    reply = await talk(simulator, first + second)

    assert reply.count(b"HTTP/1.1 200 OK") == 2
    assert reply.index(b"text_completion") < reply.index(b"0.32.0")


async def test_chunked_bodies_are_read(simulator):
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    halves = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"

    reply = await talk(simulator, head + b"connection: close\r\n\r\n" + halves + b"0\r\n\r\n")

    assert reply.startswith(b"HTTP/1.1 200 OK")


async def test_a_client_that_expects_it_is_told_to_continue(simulator):
    request = post({"prompt": "a", "max_tokens": 1}, "expect: 100-continue", "connection: close")

    reply = await talk(simulator, request)

    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_what_is_not_http_is_refused_and_the_connection_closed(simulator):
    reply = await talk(simulator, b"EHLO mail.example\r\n\r\n")

    assert reply.startswith(b"HTTP/1.1 400 Bad Request")


async def test_a_reader_that_stalls_costs_no_memory_and_misses_nothing(simulator):
    tokens = 30_000
    body = {"prompt": "a", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    process = psutil.Process(simulator.process.pid)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(simulator.socket))
    before = process.memory_info().rss

    client.sendall(post(body, "connection: close"))
    await _until_generated(simulator, tokens)
    grown = process.memory_info().rss - before
    client.settimeout(DEADLINE_SECONDS)
    reply = b"".join(iter(lambda: client.recv(1 << 20), b""))

    client.close()
    assert grown < 4_000_000
    assert reply.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert len(_text_of(reply)) == 4 * tokens


async def _until_generated(simulator, tokens: int) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS), simulator.client() as client:
        # The engine tells it only when asked.
        while metric((await client.get("/metrics")).text, GENERATED) < tokens:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _text_of(reply: bytes) -> str:
    lines = [line[6:] for line in reply.split(b"\n") if line.startswith(b"data: {")]
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines)
