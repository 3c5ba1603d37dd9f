"""One gateway connection of the relay: requests in, the engine's answers back, byte for byte.

The request's head is parsed and written anew, so that the engine sees what was checked; bodies
and the engine's answers pass as they come. Each side is read only as fast as the other takes.
One request at a time: a second one before the first is answered closes the connection after it.
When the gateway goes, the engine's connection is aborted, which ends the generation.
"""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools

from agents.relay import lending
from agents.relay.access import Access, Refusal

HEAD_LIMIT_BYTES = 64 * 1024
IDLE_TIMEOUT_SECONDS = 120.0
"""For the whole head of a request to arrive, counted from the end of the one before it."""
CONNECT_TIMEOUT_SECONDS = 5.0
WAITING_LIMIT_BYTES = 256 * 1024
"""Body bytes held while the engine is being dialled; above it the gateway is not read."""
CONNECTIONS_LIMIT = 4096
_NOT_PASSED_ON = frozenset(
    {b"authorization", b"connection", b"content-length", b"expect", b"host", b"keep-alive",
     b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
     b"upgrade"}
)  # fmt: skip
_REASONS = {
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
}
_BAD_REQUEST = Refusal(400, "bad_request", "not an HTTP request that the relay passes on")
_TOO_LARGE = Refusal(400, "bad_request", "the head of the request is larger than 64 KiB")
_FULL = Refusal(503, "relay_busy", "the relay holds as many connections as it may")
_NOT_LENT = Refusal(401, "invalid_weights_key", "weights are lent to hosts of this Hearth alone")
_NO_ENGINE = Refusal(502, "engine_unreachable", "the replica's engine does not answer")


@dataclass
class Request:
    """The request that is being read or answered."""

    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    authorization: bytes = b""
    length: bytes = b""
    is_chunked: bool = False
    wants_continue: bool = False
    is_read: bool = False


class Front(asyncio.Protocol):
    """The gateway's side of a connection."""

    def __init__(self, access: Access, health: bytes, others: "set[Front]") -> None:
        self._access = access
        self._health = health
        self._others = others
        self._transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._head_bytes = 0
        self._back: Back | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._is_last = False
        self._timer: asyncio.TimerHandle | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    # --- The gateway's bytes ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._others.add(self)
        self._await_head()
        if len(self._others) > CONNECTIONS_LIMIT:
            self._refuse(_FULL)

    def data_received(self, data: bytes) -> None:
        if self._is_last and (self._request is None or self._request.is_read):
            return  # what follows the last request is not read
        if self._timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES + WAITING_LIMIT_BYTES:
                self._refuse(_TOO_LARGE)
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(_BAD_REQUEST)

    def eof_received(self) -> bool:
        return False  # a gateway that stops sending is gone: nobody half-closes HTTP

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.discard(self)
        self._stop_timer()
        if self._dialling is not None:
            self._dialling.cancel()
        if self._back is not None:
            self._back.abort()

    def pause_writing(self) -> None:
        self._flowing.clear()
        if self._back is not None:
            self._back.pause_reading()

    def resume_writing(self) -> None:
        self._flowing.set()
        if self._back is not None:
            self._back.resume_reading()

    # --- httptools' callbacks ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._request is not None:  # sent before the last one was answered
            self._is_last = True
            return
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        if self._request is not None and not self._request.is_read:
            self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        if request is None or request.is_read:
            return
        name = name.lower()
        if name == b"authorization":
            request.authorization = value
        elif name == b"content-length":
            request.length = value
        elif name == b"transfer-encoding":
            request.is_chunked = True
        elif name == b"expect":
            request.wants_continue = True
        if name not in _NOT_PASSED_ON:
            request.headers.append((name, value))

    def on_headers_complete(self) -> None:
        request = self._request
        if request is None or request.is_read:
            return
        self._stop_timer()
        method = self._parser.get_method()
        if request.target == b"/healthz" and method == b"GET":
            self._answer(200, b"OK", self._health)
            return
        if request.target.startswith(b"/w/"):
            work = self._lend(method, request)
            self._dialling = asyncio.get_running_loop().create_task(work)
            return
        passage = self._access.decide(method, request.target, request.authorization)
        if isinstance(passage, Refusal):
            self._refuse(passage)
            return
        if request.wants_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._waiting.append(_head(method, passage.target, request))
        self._dialling = asyncio.get_running_loop().create_task(self._dial(passage.socket))

    def on_body(self, body: bytes) -> None:
        request = self._request
        if request is None or request.is_read or (self._back is None and self._dialling is None):
            return
        self._send(b"%x\r\n%b\r\n" % (len(body), body) if request.is_chunked else body)

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or request.is_read:
            return
        request.is_read = True
        if request.is_chunked:
            self._send(b"0\r\n\r\n")
        if self._back is None and self._dialling is None:
            self._next_request()

    # --- Weights for other hosts ---------------------------------------------------------------

    async def _lend(self, method: bytes, request: Request) -> None:
        """Answer a host that copies weights, as fast as it takes them."""
        if method != b"GET" or not self._access.may_borrow(request.authorization):
            self._dialling = None
            self._refuse(_NOT_LENT)
            return
        wanted = dict(request.headers).get(b"range", b"")
        root = Path(self._access.weights_root)
        loan = await asyncio.to_thread(lending.find, root, request.target, wanted)
        if isinstance(loan, Refusal):
            self._dialling = None
            self._refuse(loan)
            return
        self._transport.write(loan.head() + loan.body)
        if loan.path is not None:
            await self._send_file(loan.path, loan.offset)
        request.is_read = True
        self._dialling = None
        self._next_request()

    async def _send_file(self, path: Path, offset: int) -> None:
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := await asyncio.to_thread(file.read, lending.CHUNK_BYTES):
                await self._flowing.wait()
                self._transport.write(chunk)

    # --- The engine's side ------------------------------------------------------------------

    async def _dial(self, socket: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                _, back = await loop.create_unix_connection(lambda: Back(self), socket)
        except (OSError, TimeoutError):
            self._dialling = None
            self._refuse(_NO_ENGINE)
            return
        self._back, self._dialling = back, None
        back.write(b"".join(self._waiting))
        self._waiting.clear()
        self._transport.resume_reading()

    def _send(self, data: bytes) -> None:
        if self._back is not None:
            self._back.write(data)
            return
        self._waiting.append(data)
        if sum(map(len, self._waiting)) > WAITING_LIMIT_BYTES:
            self._transport.pause_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def pass_on(self, data: bytes) -> None:
        """Take bytes of the engine's answer."""
        self._transport.write(data)

    def answered(self, *, may_go_on: bool) -> None:
        """The engine's answer is whole."""
        self._back = None
        request = self._request
        if not may_go_on or request is None or not request.is_read:
            self._is_last = True
        self._next_request()

    def broken(self, *, anything_sent: bool) -> None:
        """The engine went away in the middle: an error if that can still be told, else a cut."""
        self._back = None
        if anything_sent:
            self._transport.close()
        else:
            self._refuse(_NO_ENGINE)

    # --- Answers of the relay's own ---------------------------------------------------------

    def leave(self) -> None:
        """Take no further request; close now if none is under way."""
        self._is_last = True
        if self._request is None:
            self._transport.close()

    def _next_request(self) -> None:
        self._request = None
        if self._is_last or not self._parser.should_keep_alive():
            self._is_last = True
            self._transport.close()
            return
        self._await_head()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with an error and close: the body that may follow is not read."""
        error = {"message": refusal.message, "type": "relay_error", "code": refusal.code}
        self._is_last = True
        self._answer(
            refusal.status, _REASONS[refusal.status], json.dumps({"error": error}).encode()
        )
        self._request = None
        self._transport.close()

    def _answer(self, status: int, reason: bytes, body: bytes) -> None:
        close = b"connection: close\r\n" if self._is_last else b""
        self._transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b"
            % (status, reason, len(body), close, body)
        )

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._stop_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(IDLE_TIMEOUT_SECONDS, self._transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Back(asyncio.Protocol):
    """The engine's side: one connection for one request."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._is_done = False
        self._anything_sent = False

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def abort(self) -> None:
        """Drop the connection: the engine sees that nobody waits any more."""
        self._is_done = True
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._is_done:
            return
        self._anything_sent = True
        self._front.pass_on(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break_off()

    def on_message_complete(self) -> None:
        if self._is_done or self._parser.get_status_code() < 200:
            return
        self._is_done = True
        self._front.answered(may_go_on=self._parser.should_keep_alive())
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_done:
            self._break_off()

    def _break_off(self) -> None:
        self._is_done = True
        self._transport.abort()
        self._front.broken(anything_sent=self._anything_sent)

    def pause_writing(self) -> None:
        if not self._is_done:
            self._front.pause_reading()

    def resume_writing(self) -> None:
        if not self._is_done:
            self._front.resume_reading()


def _head(method: bytes, target: bytes, request: Request) -> bytes:
    """Return the head that the engine gets: what was checked, and nothing between hops."""
    lines = [b"%b %b HTTP/1.1" % (method, target), b"host: engine"]
    lines += [b"%b: %b" % header for header in request.headers]
    if request.is_chunked:
        lines.append(b"transfer-encoding: chunked")
    elif request.length:
        lines.append(b"content-length: " + request.length)
    return b"\r\n".join(lines) + b"\r\n\r\n"
