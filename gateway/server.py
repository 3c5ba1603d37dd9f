"""The HTTP/1.1 front: one protocol object per client connection.

Strict on purpose. A request of the plain shape that nearly all have is read by `gateway.fields`,
any other by `gateway.reading`; this module refuses slow heads and bodies, and pipelining. A body is
gathered whole and re-framed upstream, so no ambiguity can travel on. Each whole request goes to
`App.handle`, which answers through the methods of `ClientConnection`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.errors import Problem, Shape, body, busy, invalid
from gateway.fields import request_head
from gateway.heads import first_lines, retry_after_line
from gateway.reading import MalformedError, RequestReader
from gateway.request import App, Holder, Request

_WRITE_HIGH_BYTES: Final = 128 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# The states of a connection.
_IDLE: Final = 0  # between requests
_HEAD: Final = 1  # a request's head is coming
_BODY: Final = 2  # its body is coming
_ANSWER: Final = 3  # it is whole; the answer is due or under way
_CLOSED: Final = 4

_monotonic: Final[Callable[[], float]] = time.monotonic


class ClientConnection:
    """One client connection: reads requests, writes answers, one at a time.

    An asyncio.Protocol by its methods alone; as a subclass it would not be compiled.
    """

    __slots__ = (
        "_app",
        "_body",
        "_close_after",
        "_head",
        "_head_bytes",
        "_is_chunked",
        "_missing_bytes",
        "_most_body_bytes",
        "_most_head_bytes",
        "_pipelined",
        "_reader",
        "_since",
        "_state",
        "_transport",
        "_url",
        "_version",
        "bytes_out",
        "holder",
        "is_paused",
        "paused_at",
    )

    def __init__(self, app: App) -> None:
        self._app = app
        self._most_head_bytes = app.limits.head_bytes
        self._most_body_bytes = app.limits.body_bytes
        self._transport: asyncio.Transport
        self._state = _IDLE
        self._since = 0.0
        self._pipelined = False
        self._close_after = False
        self._is_chunked = False
        """The answer is sent in chunks."""
        self._version = ""
        self._reader: RequestReader | None = None
        """Reads the request that is coming, unless it is of the plain shape."""
        self._head_bytes = 0
        self._url = b""
        self._head: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._missing_bytes = 0
        """Of the body of a plain request."""
        self.holder: Holder | None = None
        self.is_paused = False
        self.paused_at = 0.0
        self.bytes_out = 0

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self._since = _monotonic()
        if not self._app.connected(self):
            self._fail(
                busy("Too many connections.", code="too_many_connections", retry_after_seconds=1.0)
            )

    def data_received(self, data: bytes) -> None:
        if self._state == _ANSWER:
            self._pipelined = True
            return
        if self._state == _CLOSED:
            return
        if self._missing_bytes:
            self._more_of_plain(data)
            return
        if self._state == _IDLE:
            self._since = _monotonic()
            if self._is_plain(data):
                return
            self._state = _HEAD
            self._head_bytes = 0
            self._reader = RequestReader(self._app.limits)
        if self._reader is not None:
            self._read(self._reader, data)

    # --- A request of the plain shape, which passes by llhttp --------------------------------

    def _is_plain(self, data: bytes) -> bool:
        """Take `data` if it begins with a plain head and holds no more than that request."""
        text, end, content = data.partition(b"\r\n\r\n")
        if not end or len(text) > self._most_head_bytes:
            return False
        head = request_head(text)
        if head is None or head.length > self._most_body_bytes:
            return False
        missing = head.length - len(content)
        if missing < 0:
            return False
        self._version, self._close_after = "1.1", False
        self._url, self._head = head.target, head.fields
        if missing:
            self._state = _BODY
            self._missing_bytes = missing
            self._body.append(content)
        else:
            self._take_plain(content)
        return True

    def _more_of_plain(self, data: bytes) -> None:
        missing = self._missing_bytes - len(data)
        if missing < 0:
            self._pipelined = True
            data = data[: self._missing_bytes]
            missing = 0
        self._missing_bytes = missing
        self._body.append(data)
        if not missing:
            content = b"".join(self._body)
            self._body = []
            self._take_plain(content)

    def _take_plain(self, content: bytes) -> None:
        self._take(Request(b"POST", self._url, self._head, content, _monotonic()))

    def _take(self, request: Request) -> None:
        self._state = _ANSWER
        self._is_chunked = False
        self.bytes_out = 0
        self._app.handle(self, request)

    # --- Any other request -------------------------------------------------------------------

    def _read(self, reader: RequestReader, data: bytes) -> None:
        if self._state == _HEAD:
            self._head_bytes += len(data)
        try:
            reader.feed(data)
        except MalformedError as error:
            self._fail(invalid(str(error), status=error.status))
            return
        if reader.has_head and self._state == _HEAD:
            self._state = _BODY
            if reader.expects:
                self._transport.write(_CONTINUE)
        request = reader.request
        if request is not None:
            self._reader = None
            self._version, self._close_after = reader.version, reader.closes
            self._pipelined = reader.has_more
            self._take(request)
        elif self._state == _HEAD and self._head_bytes > self._most_head_bytes:
            self._fail(invalid("The request line and headers are too long.", status=431))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _CLOSED
        self._app.disconnected(self)
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.client_gone()

    def pause_writing(self) -> None:
        self.is_paused = True
        self.paused_at = _monotonic()
        if self.holder is not None:
            self.holder.client_paused()

    def resume_writing(self) -> None:
        self.is_paused = False
        if self.holder is not None:
            self.holder.client_resumed()

    # --- Answers -----------------------------------------------------------------------------

    def answer(self, status: int, content: bytes, *, kind: bytes, extra: bytes = b"") -> None:
        """Send one whole answer. `extra` are whole header lines."""
        if self._state == _CLOSED:
            return
        closes = self._closes()
        self._transport.write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b"
            % (
                first_lines(status),
                kind,
                len(content),
                b"connection: close\r\n" if closes else b"",
                extra,
                content,
            )
        )
        self.bytes_out += len(content)
        self._answered(closes=closes)

    def refuse(self, problem: Problem, shape: Shape, *, extra: bytes = b"") -> None:
        """Send `problem` as one whole answer."""
        self.answer(
            problem.status,
            body(problem, shape),
            kind=b"application/json",
            extra=retry_after_line(problem) + extra,
        )

    def begin(self, status: int, *, kind: bytes, extra: bytes = b"", first: bytes = b"") -> None:
        """Send the head of an answer whose length is not known yet, and with it its first piece."""
        if self._state == _CLOSED:
            return
        self._is_chunked = self._version == "1.1"
        if not self._is_chunked:
            self._close_after = True
        self.bytes_out += len(first)
        self._transport.write(
            b"%bcontent-type: %b\r\ncache-control: no-cache\r\n%b%b%b\r\n%b"
            % (
                first_lines(status),
                kind,
                b"transfer-encoding: chunked\r\n" if self._is_chunked else b"",
                b"connection: close\r\n" if self._closes() else b"",
                extra,
                self._framed(first),
            )
        )

    def send(self, data: bytes, chunk: bytes = b"") -> None:
        """Send a piece of the answer that was begun; `chunk` is `data` framed already, or empty."""
        if self._state != _ANSWER or not data:
            return
        self.bytes_out += len(data)
        if self._is_chunked:
            self._transport.write(chunk or self._framed(data))
        else:
            self._transport.write(data)

    def send_chunk(self, chunk: bytes, start: int) -> None:
        """Send a piece that is framed as one chunk; its content begins at `start`."""
        if not self._is_chunked:
            self.send(chunk[start:-2])
        elif self._state == _ANSWER:
            self.bytes_out += len(chunk) - start - 2
            self._transport.write(chunk)

    def end(self, *, last: bytes = b"", close: bool = False) -> None:
        """End the answer that was begun, after its last piece."""
        if self._state != _ANSWER:
            return
        self.bytes_out += len(last)
        ending = self._framed(last)
        if self._is_chunked:
            ending += b"0\r\n\r\n"
        if ending:
            self._transport.write(ending)
        self._answered(closes=close or self._closes())

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if data and self._is_chunked else data

    def abort(self) -> None:
        """Cut the connection: the answer cannot be completed, and must not look complete."""
        self.holder = None
        self._state = _CLOSED
        self._transport.abort()

    def _closes(self) -> bool:
        return self._close_after or self._pipelined or self._app.is_draining

    def _answered(self, *, closes: bool) -> None:
        self.holder = None
        if self._pipelined:
            self._pipelined = False
            self._fail(invalid("Pipelining is not supported: wait for each answer."))
        elif closes:
            self._close()
        else:
            self._state = _IDLE
            self._since = _monotonic()

    def _fail(self, problem: Problem) -> None:
        """Answer a request that never became whole, and close."""
        if self._state == _CLOSED:
            return
        content = body(problem, Shape.OPENAI)
        self._transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\n%b"
            b"connection: close\r\n\r\n%b"
            % (
                first_lines(problem.status),
                len(content),
                retry_after_line(problem),
                content,
            )
        )
        self._close()

    def _close(self) -> None:
        self._state = _CLOSED
        self._transport.close()

    # --- Time --------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Give up what takes too long; called about once a second."""
        limits = self._app.limits
        waited = now - self._since
        if self._state == _IDLE and waited > limits.keep_alive_seconds:
            self._close()
        elif self._state == _HEAD and waited > limits.head_timeout_seconds:
            self._fail(invalid("The request head took too long.", status=408))
        elif self._state == _BODY and waited > limits.body_timeout_seconds:
            self._fail(invalid("The request body took too long.", status=408))
        elif self.is_paused and now - self.paused_at > limits.stalled_reader_seconds:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """Close unless a request is under way."""
        if self._state in (_IDLE, _HEAD):
            self._close()
