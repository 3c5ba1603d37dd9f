"""The bridge: a socket before a program that only listens on a port."""

import asyncio
import contextlib
import sys

import httpx

from agents.engines import bridge

PROGRAM = """
import http.server, sys
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello " + self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Hello).serve_forever()
"""


async def test_carries_requests_and_ends_with_the_program(tmp_path):
    socket = tmp_path / "engine.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", bridge.__file__, str(socket),
        sys.executable, "-c", PROGRAM, "{port}",
    )  # fmt: skip
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            answer = await _first_answer(client)
        assert answer == "hello /a"
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 143
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _first_answer(client: httpx.AsyncClient) -> str:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get("/a")).text
            await asyncio.sleep(0.05)
