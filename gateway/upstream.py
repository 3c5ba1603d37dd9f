"""Pooled HTTP/1.1 connections to one replica, over TCP, TLS or a Unix socket.

Callback style, no task per request: a `Sink` is told of the answer's head, its body as it comes,
and its end or loss. A connection carries one request at a time and goes back to the pool only
after an answer that ended cleanly. Request heads are built here from fixed parts alone, so nothing
of a client's framing or headers reaches an engine.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

import httptools

from gateway.address import Address
from gateway.fields import answer_head, only_chunk
from gateway.sink import Passage, Sink, UpstreamError

IDLE_SECONDS: Final = 4.0
"""uvicorn, in front of vLLM, closes idle connections after 5 s; ours go first."""

MOST_IDLE = 128
"""Idle connections kept per replica."""

_MOST_HEADS = 32
"""Paths whose head is kept: endpoints are few, the control plane's paths are not asked by it."""
_UNREAD_BYTES = 256 * 1024  # of an answer, in the kernel, whose own limit is up to 32 MB

_monotonic: Final[Callable[[], float]] = time.monotonic


class Pool:
    """Connections to one address."""

    def __init__(
        self, address: Address, *, api_key: str, connect_seconds: float, host: str = "replica"
    ) -> None:
        """`host` is the Host header, fixed: never what a client sent."""
        self.address = address
        self._host = host
        self._api_key = api_key
        self._heads: dict[str, bytes] = {}
        self._connect_seconds = connect_seconds
        self._idle: list[UpstreamConnection] = []
        self._is_retired = False
        self._connecting: set[asyncio.Task[None]] = set()
        self._tls = ssl.create_default_context() if address.tls else None

    def open(self, sink: Sink, *, fresh: bool = False) -> Callable[[], None]:
        """Give `sink` a connection, at once if one is idle. Returns how to call it off."""
        idle = self._idle
        while idle and not fresh:
            connection = idle.pop()
            if connection.is_usable(_monotonic() - IDLE_SECONDS):
                connection.begin(sink)
                sink.connected(connection)
                return _nothing
            connection.close()
        return self._dial_for(sink)

    def _dial_for(self, sink: Sink) -> Callable[[], None]:
        task = asyncio.get_running_loop().create_task(self._connect(sink))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

        def call_off() -> None:
            task.cancel()

        return call_off

    @property
    def api_key(self) -> str:
        """What the replica wants to see as `Authorization: Bearer`."""
        return self._api_key

    @api_key.setter
    def api_key(self, value: str) -> None:
        self._api_key = value
        self._heads.clear()

    def head(self, method: str, path: str, fields: str, body_bytes: int) -> bytes:
        """Return a request head; `fields` are whole header lines."""
        fixed = self._heads.get(path)
        if fixed is None or method != "POST":
            fixed = self._fixed_head(method, path)
        return b"%b%d\r\n%b\r\n" % (fixed, body_bytes, fields.encode("latin-1"))

    def _fixed_head(self, method: str, path: str) -> bytes:
        """Return what does not change from one request to the next, up to the body's length."""
        authorization = f"authorization: Bearer {self._api_key}\r\n" if self._api_key else ""
        fixed = (
            f"{method} {self.address.prefix}{path} HTTP/1.1\r\nhost: {self._host}\r\n"
            f"{authorization}content-length: "
        ).encode("latin-1")
        if method == "POST" and len(self._heads) < _MOST_HEADS:
            self._heads[path] = fixed
        return fixed

    def give_back(self, connection: "UpstreamConnection") -> None:
        """Take a connection whose answer ended cleanly."""
        if len(self._idle) < MOST_IDLE and not self._is_retired:
            connection.idle_since = _monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    def sweep(self) -> None:
        """Close what has been idle too long."""
        oldest = _monotonic() - IDLE_SECONDS
        kept = []
        for connection in self._idle:
            if connection.is_usable(oldest):
                kept.append(connection)
            else:
                connection.close()
        self._idle = kept

    def retire(self) -> None:
        """Close all connections as they become idle: the address is not asked any more."""
        self._is_retired = True
        self.close_idle()

    def close_idle(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connect(self, sink: Sink) -> None:
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await self._dial()
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no connection in time"
            sink.answer_lost(UpstreamError(reason, was_sent=False))
            return
        connection.begin(sink)
        sink.connected(connection)

    async def _dial(self) -> "UpstreamConnection":
        loop, address = asyncio.get_running_loop(), self.address
        connection = UpstreamConnection(self)
        protocol = cast(asyncio.Protocol, connection)
        if address.unix:
            await loop.create_unix_connection(lambda: protocol, address.unix)
            return connection
        await loop.create_connection(lambda: protocol, address.host, address.port, ssl=self._tls)
        connected = connection._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BYTES)
        return connection


def _nothing() -> None:
    """Nothing to call off."""


class UpstreamConnection:
    """One connection to a replica (an asyncio.Protocol by its methods).

    A stream is mostly packets that hold one whole chunk each. Those pass by the parser, which is at
    the start of a chunk before and after them; it reads all else.
    """

    __slots__ = (
        "_at_chunk", "_began", "_body", "_ended", "_headers", "_is_parsing", "_is_paused",
        "_is_reusable", "_parser", "_sink", "_status", "_transport", "_uses", "idle_since",
        "is_last", "packet", "passage", "pool",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._sink: Sink | None = None
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._status = 0
        self._at_chunk = False
        self._began = False
        self._ended = False
        self._is_parsing = False
        """An answer has begun that llhttp reads."""
        self._is_reusable = False
        self._is_paused = False
        self._uses = 0
        self.idle_since = 0.0
        self.packet = b""
        """What came from the engine, while a piece is passed on that is its one chunk."""
        self.passage: Passage | None = None
        """Set by the sink while an answer is a stream."""
        self.is_last = False
        """The piece that is passed on is the last: `answer_ended` follows at once."""

    # --- Used by the pool and by sinks -------------------------------------------------------

    def begin(self, sink: Sink) -> None:
        """Make ready for one request of `sink`."""
        self._sink = sink
        self._headers, self._body = {}, []
        self.passage = None
        self._at_chunk = False
        self._began = self._ended = self._is_parsing = self._is_reusable = self.is_last = False
        self._uses += 1

    def send(self, head: bytes, body: bytes) -> None:
        """Send one whole request."""
        if len(body) < 65536:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def is_usable(self, oldest: float) -> bool:
        """True if the connection is open and has not been idle since before `oldest`."""
        return not self._transport.is_closing() and self.idle_since >= oldest

    def pause(self) -> None:
        """Stop reading: the client does not keep up."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def cancel(self) -> None:
        """Drop the request: closing the connection makes the engine abort it."""
        self._sink = None
        self._transport.abort()

    def close(self) -> None:
        """Close without a request under way."""
        self._sink = None
        self._transport.close()

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self._transport.abort()  # an answer that nobody asked for
            return
        if self._at_chunk:
            start = only_chunk(data)
            if start > 0:
                passage = self.passage
                if passage is None or not passage.pass_on(data, start):
                    self.packet = data
                    sink.answer_data(data[start:-2])
                    self.packet = b""
                return
        elif not self._is_parsing and self._is_whole(sink, data):
            return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._is_parsing = True
        self._at_chunk = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._pass_body()
            self._lose(f"the answer is not HTTP: {error}")
            return
        self._pass_body()
        if self._ended:
            self._finish()
        elif self._at_chunk:
            # Anything that follows the last chunk's line end belongs to the next chunk's size.
            self._at_chunk = data.endswith(b"\r\n")

    def _is_whole(self, sink: Sink, data: bytes) -> bool:
        """Pass `data` on if it is exactly one answer of the plain shape: no parser is needed."""
        text, end, content = data.partition(b"\r\n\r\n")
        if not end:
            return False
        head = answer_head(text)
        if head is None or head.length != len(content):
            return False
        self._began = self._is_reusable = True
        self._status, self._headers = head.status, head.fields
        sink.answer_began(self._status, self._headers)
        if content and self._sink is not None:
            sink.answer_data(content)
        if self._sink is not None:
            self._finish()
        return True

    def _pass_body(self) -> None:
        """Give the sink what one packet held of the body, in one piece."""
        body = self._body
        if not body:
            return
        self._body = []
        self.is_last = self._ended
        if self._sink is not None:
            self._sink.answer_data(body[0] if len(body) == 1 else b"".join(body))

    def pause_writing(self) -> None:
        """A body is held whole anyway: nothing to stop."""

    def resume_writing(self) -> None:
        """Nothing was stopped."""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sink is None:
            return
        if self._began and not self._is_framed() and exc is None:
            self._finish()
        else:
            self._lose(str(exc) if exc else "the replica closed the connection")

    # --- httptools ---------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200:
            self._headers = {}
            return
        self._began = True
        if self._sink is not None:
            self._sink.answer_began(self._status, self._headers)

    def on_chunk_header(self) -> None:
        self._at_chunk = False

    def on_chunk_complete(self) -> None:
        self._at_chunk = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._status >= 200:
            self._ended = True
            self._is_reusable = self._parser.should_keep_alive()

    # --- Ends --------------------------------------------------------------------------------

    def _is_framed(self) -> bool:
        return b"content-length" in self._headers or b"transfer-encoding" in self._headers

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        self._ended = False
        self.passage = None
        if self._is_paused:
            self.resume()
        if self._is_reusable and not self._transport.is_closing():
            self.pool.give_back(self)
        else:
            self._transport.close()
        if sink is not None:
            sink.answer_ended()

    def _lose(self, reason: str) -> None:
        sink, self._sink = self._sink, None
        self._transport.abort()
        if sink is not None:
            stale = self._uses > 1 and not self._began
            sink.answer_lost(UpstreamError(reason, was_sent=True, was_reused=stale))
