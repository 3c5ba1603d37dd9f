"""A small scripted engine: an asyncio HTTP server whose every answer a test decides.

It speaks just enough HTTP/1.1 to be a replica, and gives what tests and benchmarks ask for: plain
answers, streams, errors, cuts, silence. It remembers what it was asked.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Asked:
    """One request that reached the engine."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway closes the connection before the answer is over."""

    @property
    def json(self) -> dict:
        return json.loads(self.body)


type Script = Callable[[Asked], Awaitable[None]]


async def answer_json(asked: Asked, value: object, status: int = 200) -> None:
    content = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
    asked.writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    await asked.writer.drain()


async def begin_stream(asked: Asked) -> None:
    asked.writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    await asked.writer.drain()


async def send_event(asked: Asked, payload: object) -> None:
    text = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"))
    data = f"data: {text}\n\n".encode()
    asked.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await asked.writer.drain()


async def end_stream(asked: Asked) -> None:
    asked.writer.write(b"0\r\n\r\n")
    await asked.writer.drain()


def cut(asked: Asked) -> None:
    """Drop the connection without a word."""
    asked.writer.transport.abort()


def chat_chunk(content: str, finish_reason: str | None = None) -> dict:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def usage_chunk(prompt: int = 9, output: int = 3, cached: int | None = None) -> dict:
    return {"id": "c", "object": "chat.completion.chunk", "choices": [],
            "usage": usage(prompt, output, cached)}  # fmt: skip


def usage(prompt: int = 9, output: int = 3, cached: int | None = None) -> dict:
    counts = {"prompt_tokens": prompt, "completion_tokens": output,
              "total_tokens": prompt + output}  # fmt: skip
    details = {"cached_tokens": cached} if cached is not None else None
    return {**counts, "prompt_tokens_details": details}


async def whole_chat(asked: Asked) -> None:
    """Answer as a healthy engine does, streamed or not."""
    if asked.path == "/health":
        await answer_json(asked, {})
        return
    if not asked.json.get("stream"):
        message = {"role": "assistant", "content": "Hello there you"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await answer_json(asked, {"id": "c", "choices": [choice], "usage": usage()})
        return
    await begin_stream(asked)
    for word in ("Hello", " there", " you"):
        await send_event(asked, chat_chunk(word))
    await send_event(asked, chat_chunk("", "stop"))
    if (asked.json.get("stream_options") or {}).get("include_usage"):
        await send_event(asked, usage_chunk())
    await send_event(asked, "[DONE]")
    await end_stream(asked)


class Upstream:
    """One scripted replica."""

    def __init__(self, script: Script = whole_chat) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.arrived = asyncio.Condition()
        self.url = ""
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, unix: Path | None = None, port: int = 0) -> None:
        if unix is not None:
            self._server = await asyncio.start_unix_server(self._serve, str(unix))
            self.url = f"unix:{unix}"
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_for(self, count: int, seconds: float = 5.0) -> list[Asked]:
        """Return what was asked once it is `count` inference requests or more."""
        async with asyncio.timeout(seconds), self.arrived:
            await self.arrived.wait_for(lambda: len(self.inferences) >= count)
        return self.inferences

    @property
    def inferences(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path != "/health"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                while not writer.is_closing():
                    await self._answer_one(reader, writer)
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await _read_request(reader, writer)
        async with self.arrived:
            self.asked.append(asked)
            self.arrived.notify_all()
        script = asyncio.ensure_future(self.script(asked))
        peek = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({script, peek}, return_when=asyncio.FIRST_COMPLETED)
            if peek.done():
                asked.gone.set()
                with contextlib.suppress(OSError, asyncio.CancelledError, Exception):
                    await asyncio.wait_for(script, 5)
                raise ConnectionResetError
            await script
        finally:
            script.cancel()
            peek.cancel()
            await asyncio.gather(peek, script, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body, writer)


@contextlib.asynccontextmanager
async def running(script: Script = whole_chat) -> AsyncIterator[Upstream]:
    upstream = Upstream(script)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()
