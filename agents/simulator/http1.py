"""A small HTTP/1.1 server: httptools parses, asyncio transports carry, no framework.

It decides framing only: keep-alive, one exchange at a time per connection, chunked streams with
backpressure (a reader that stalls stops the writer's chunks, not its tokens), and a limit on
bodies. Handlers are plain functions that get an `Exchange` and answer now or later.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qsl

import httptools

MAX_BODY_BYTES = 64 * 1024 * 1024
SERVER = "hearth-simulator"

type Handler = Callable[["Exchange"], None]


class Exchange:
    """One request and the way to answer it."""

    def __init__(self, connection: "Connection", method: str, url: bytes) -> None:
        parsed = httptools.parse_url(url)
        self.method = method
        self.path = (parsed.path or b"/").decode("latin-1")
        self.query = dict(parse_qsl((parsed.query or b"").decode("latin-1")))
        self.headers: dict[str, str] = {}
        self.body = b""
        self.extra_headers: dict[str, str] = {}
        self.on_gone: Callable[[], None] = _nothing
        """Called once if the client leaves before the answer is complete."""
        self.on_flowing: Callable[[], None] = _nothing
        """Called when a stalled reader reads again."""
        self.keeps_alive = True
        self._connection = connection

    @property
    def is_clogged(self) -> bool:
        """Whether the client reads slower than it is written to; hold back until `on_flowing`."""
        return self._connection.is_clogged

    def send(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Answer whole."""
        head = self._head(status, content_type, f"content-length: {len(body)}")
        self._connection.write(head + (b"" if self.method == "HEAD" else body))
        self._connection.finish(self)

    def start_stream(self, content_type: str) -> None:
        """Answer 200 in pieces: `write` any number of times, then `end`."""
        self._connection.write(self._head(200, content_type, "transfer-encoding: chunked"))

    def write(self, data: bytes) -> None:
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self._connection.write(b"0\r\n\r\n")
        self._connection.finish(self)

    def cut(self) -> None:
        """Drop the connection without an end."""
        self.on_gone = _nothing
        self._connection.abort()

    def _head(self, status: int, content_type: str, framing: str) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"server: {SERVER}",
            f"content-type: {content_type}",
            framing,
            *(f"{name}: {value}" for name, value in self.extra_headers.items()),
        ]
        if not self.keeps_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, handler: Handler, connections: set["Connection"]) -> None:
        self._handler = handler
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.is_clogged = False

    # --- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.discard(self)
        self._queue.clear()
        if self._current is not None:
            current, self._current = self._current, None
            current.on_gone()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "upgrades are not supported")
        except httptools.HttpParserError:
            self._refuse(400, "this is not HTTP/1.1")
        # Handlers run here, not in the parser's callback, which would swallow what they raise.
        self._next()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.is_clogged = True

    def resume_writing(self) -> None:
        self.is_clogged = False
        if self._current is not None:
            self._current.on_flowing()

    # --- httptools ----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body, self._body_bytes = b"", {}, [], 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(413, f"the body exceeds {MAX_BODY_BYTES} bytes")
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        exchange = Exchange(self, self._parser.get_method().decode("latin-1"), self._url)
        exchange.headers = self._headers
        exchange.body = b"".join(self._body)
        exchange.keeps_alive = self._parser.should_keep_alive()
        self._queue.append(exchange)

    # --- for exchanges ------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def finish(self, exchange: Exchange) -> None:
        """Take the next request of this connection, or close it."""
        if self._current is not exchange or self._transport is None:
            return
        self._current = None
        if not exchange.keeps_alive:
            self._transport.close()
            return
        self._transport.resume_reading()
        self._next()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self) -> None:
        if self._current is None and self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        if self._current is not None:
            if self._transport is not None:
                self._transport.pause_reading()
            return
        if self._queue:
            self._current = self._queue.popleft()
            self._handler(self._current)

    def _refuse(self, status: int, message: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        body = f'{{"error":{{"message":"{message}","code":{status}}}}}'.encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n"
        framing = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write((head + framing).encode() + body)
        self._transport.close()


def _nothing() -> None:
    """The default listener."""
