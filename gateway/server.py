"""The HTTP/1.1 front: one protocol object per client connection.

Strict on purpose. httptools (llhttp, lenient flags off) refuses both lengths at once, obs-fold, bad
chunk sizes and bare LF; this module refuses the rest: a missing or doubled Host, a transfer coding
other than `chunked`, heads and bodies over their limits, slow heads and bodies, and pipelining. A
body is gathered whole and re-framed upstream, so no ambiguity can travel on. Each whole request
goes to `App.handle`, which answers through the methods of `ClientConnection`.
"""

import asyncio
import time
from enum import Enum, auto

import httptools

from gateway.errors import Problem, Shape, body, busy, invalid
from gateway.heads import first_lines, retry_after_line
from gateway.request import App, Holder, Request

_MOST_HEADERS = 128
_SINGLE = {b"host", b"authorization", b"x-api-key", b"content-type", b"x-session-id"}
"""Headers of which a second one would leave open which counts."""

_WRITE_HIGH_BYTES = 128 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _State(Enum):
    IDLE = auto()  # between requests
    HEAD = auto()  # a request's head is coming
    BODY = auto()  # its body is coming
    ANSWER = auto()  # it is whole; the answer is due or under way
    CLOSED = auto()


class ClientConnection:
    """One client connection: reads requests, writes answers, one at a time.

    An asyncio.Protocol by its methods alone; as a subclass it would not be compiled.
    """

    __slots__ = (
        "_app",
        "_body",
        "_body_bytes",
        "_close_after",
        "_expects",
        "_head",
        "_head_bytes",
        "_headers",
        "_is_chunked",
        "_parser",
        "_pipelined",
        "_request",
        "_since",
        "_state",
        "_transport",
        "_upgrading",
        "_url",
        "_version",
        "bytes_out",
        "holder",
        "is_paused",
        "paused_at",
    )

    def __init__(self, app: App) -> None:
        self._app = app
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._state = _State.IDLE
        self._since = 0.0
        self._pipelined = False
        self._version = ""
        self._request: Request | None = None
        self.holder: Holder | None = None
        self.is_paused = False
        self.paused_at = 0.0
        self.bytes_out = 0
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._head: dict[bytes, bytes] = {}
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._expects = False
        self._is_chunked = False
        self._close_after = False
        self._upgrading = False

    # --- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self._since = time.monotonic()
        if not self._app.connected(self):
            self._fail(
                busy("Too many connections.", code="too_many_connections", retry_after_seconds=1.0)
            )

    def data_received(self, data: bytes) -> None:
        if self._state is _State.ANSWER:
            self._pipelined = True
            return
        if self._state is _State.CLOSED:
            return
        if self._state is _State.IDLE:
            self._since = time.monotonic()
            self._state = _State.HEAD
        if self._state is _State.HEAD:
            self._head_bytes += len(data)
        self._feed(data)
        request, self._request = self._request, None
        if request is not None:
            self._app.handle(self, request)
        elif self._state is _State.HEAD and self._head_bytes > self._app.limits.head_bytes:
            self._fail(invalid("The request line and headers are too long.", status=431))

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._request is not None:
                self._pipelined = True  # garbage behind a whole request: that one is answered first
            else:
                self._fail(_what_is_wrong(error))

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Answer an offer of another protocol (some Java clients offer h2c) in HTTP/1.1."""
        headers, url = self._head, self._url
        length = headers.get(b"content-length", b"0")
        if self._is_chunked or self._state is _State.CLOSED:
            self._fail(invalid("A protocol upgrade cannot go with a chunked body."))
            return
        method = self._parser.get_method()
        self._parser = httptools.HttpRequestParser(self)
        self._reset()
        self._state = _State.HEAD
        lines = b"".join(
            name + b": " + value + b"\r\n"
            for name, value in headers.items()
            if name not in (b"upgrade", b"connection", b"http2-settings", b"content-length")
        )
        head = method + b" " + url + b" HTTP/1.1\r\n" + lines
        self._feed(head + b"content-length: " + length + b"\r\n\r\n" + rest)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _State.CLOSED
        self._app.disconnected(self)
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.client_gone()

    def pause_writing(self) -> None:
        self.is_paused = True
        self.paused_at = time.monotonic()
        if self.holder is not None:
            self.holder.client_paused()

    def resume_writing(self) -> None:
        self.is_paused = False
        if self.holder is not None:
            self.holder.client_resumed()

    # --- httptools: raising _Malformed refuses the request -----------------------------------

    def on_url(self, url: bytes) -> None:
        if self._state is _State.ANSWER:
            self._pipelined = True
            return
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        if name in headers and name in _SINGLE:
            raise _Malformed(f"The header {name.decode('latin-1')!r} is there twice.")
        headers[name] = value

    def on_headers_complete(self) -> None:
        if self._state is not _State.HEAD:
            return
        # Trailers, which carry nothing that counts, go to a dictionary that nobody reads.
        self._head, self._headers = self._headers, {}
        self._check_head()
        self._state = _State.BODY
        if self._expects:
            self._transport.write(_CONTINUE)

    def on_body(self, data: bytes) -> None:
        if self._state is not _State.BODY:
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._app.limits.body_bytes:
            raise _Malformed(self._too_large(), 413)
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._state is not _State.BODY or self._upgrading:
            return
        self._state = _State.ANSWER
        content = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._request = Request(
            self._parser.get_method(), self._url, self._head, content, time.monotonic()
        )
        self._body = []
        self._close_after = self._version == "1.0" or not self._parser.should_keep_alive()
        self.bytes_out = 0

    def _check_head(self) -> None:
        headers, version = self._head, self._parser.get_http_version()
        self._version = version
        if version == "1.1":
            if b"host" not in headers:
                raise _Malformed("The header 'Host' is missing.")
        elif version != "1.0":
            raise _Malformed(f"HTTP {version} is not spoken here.", 505)
        if len(headers) > _MOST_HEADERS:
            raise _Malformed("There are too many headers.", 431)
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._app.limits.body_bytes:
            raise _Malformed(self._too_large(), 413)
        if b"transfer-encoding" in headers:
            self._check_coding(headers[b"transfer-encoding"])
        if b"expect" in headers:
            self._check_expectation(headers[b"expect"], length)
        self._upgrading = self._parser.should_upgrade()

    def _check_coding(self, coding: bytes) -> None:
        if self._version == "1.0" or coding.strip().lower() != b"chunked":
            raise _Malformed("The only transfer coding taken is 'chunked'.", 501)
        self._is_chunked = True

    def _check_expectation(self, expectation: bytes, length: bytes | None) -> None:
        if expectation.lower() != b"100-continue":
            raise _Malformed("The only expectation met is '100-continue'.", 417)
        has_body = self._is_chunked or length not in (None, b"0")
        self._expects = self._version == "1.1" and has_body

    def _too_large(self) -> str:
        return f"The request body is over the limit of {self._app.limits.body_bytes} bytes."

    # --- Answers -----------------------------------------------------------------------------

    def answer(self, status: int, content: bytes, *, kind: bytes, extra: bytes = b"") -> None:
        """Send one whole answer. `extra` are whole header lines."""
        if self._state is _State.CLOSED:
            return
        close = self._close_after or self._pipelined or self._app.is_draining
        self._transport.write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b"
            % (
                first_lines(status),
                kind,
                len(content),
                b"connection: close\r\n" if close else b"",
                extra,
                content,
            )
        )
        self.bytes_out += len(content)
        self._answered()

    def refuse(self, problem: Problem, shape: Shape, *, extra: bytes = b"") -> None:
        """Send `problem` as one whole answer."""
        self.answer(
            problem.status,
            body(problem, shape),
            kind=b"application/json",
            extra=retry_after_line(problem) + extra,
        )

    def begin(self, status: int, *, kind: bytes, extra: bytes = b"") -> None:
        """Send the head of an answer whose length is not known yet."""
        if self._state is _State.CLOSED:
            return
        self._is_chunked = self._version == "1.1"
        if not self._is_chunked:
            self._close_after = True
        self._transport.write(
            b"%bcontent-type: %b\r\ncache-control: no-cache\r\n%b%b%b\r\n"
            % (
                first_lines(status),
                kind,
                b"transfer-encoding: chunked\r\n" if self._is_chunked else b"",
                b"connection: close\r\n" if self._closes() else b"",
                extra,
            )
        )

    def send(self, data: bytes) -> None:
        """Send a piece of the answer that was begun."""
        if self._state is not _State.ANSWER or not data:
            return
        self.bytes_out += len(data)
        if self._is_chunked:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._transport.write(data)

    def end(self, *, close: bool = False) -> None:
        """End the answer that was begun."""
        if self._state is not _State.ANSWER:
            return
        if self._is_chunked:
            self._transport.write(b"0\r\n\r\n")
        self._close_after = self._close_after or close
        self._answered()

    def abort(self) -> None:
        """Cut the connection: the answer cannot be completed, and must not look complete."""
        self.holder = None
        self._state = _State.CLOSED
        self._transport.abort()

    def _closes(self) -> bool:
        return self._close_after or self._pipelined or self._app.is_draining

    def _answered(self) -> None:
        self.holder = None
        if self._pipelined:
            self._pipelined = False
            self._fail(invalid("Pipelining is not supported: wait for each answer."))
        elif self._closes():
            self._close()
        else:
            self._reset()
            self._state = _State.IDLE
            self._since = time.monotonic()

    def _fail(self, problem: Problem) -> None:
        """Answer a request that never became whole, and close."""
        if self._state is _State.CLOSED:
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
        self._state = _State.CLOSED
        self._transport.close()

    # --- Time --------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Give up what takes too long; called about once a second."""
        limits = self._app.limits
        waited = now - self._since
        if self._state is _State.IDLE and waited > limits.keep_alive_seconds:
            self._close()
        elif self._state is _State.HEAD and waited > limits.head_timeout_seconds:
            self._fail(invalid("The request head took too long.", status=408))
        elif self._state is _State.BODY and waited > limits.body_timeout_seconds:
            self._fail(invalid("The request body took too long.", status=408))
        elif self.is_paused and now - self.paused_at > limits.stalled_reader_seconds:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """Close unless a request is under way."""
        if self._state in (_State.IDLE, _State.HEAD):
            self._close()


def _what_is_wrong(error: httptools.HttpParserError) -> Problem:
    if isinstance(error, httptools.HttpParserCallbackError):
        refusal = error.__context__
        if not isinstance(refusal, _Malformed):
            raise error
        return invalid(str(refusal), status=refusal.status)
    return invalid(f"This is not a valid HTTP request: {error}")


class _Malformed(Exception):
    """The request breaks a rule of this front."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
