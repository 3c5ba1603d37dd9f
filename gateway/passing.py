"""One request for a detour: checked here, answered by another program, carried through.

The program (a knowledge base in the control plane's web process) calls the deployment through a
gateway itself, on the same key and with this request's id as the parent. That call takes the slot,
the limits' tokens and the usage record; so this one takes none of them, and a key that may have one
request at once is not in its own way. Called by `gateway.intake`.
"""

import logging
import time
from collections.abc import Callable

from gateway import errors
from gateway.auth import allowed_models, secret_in
from gateway.call import Api, Call
from gateway.core import Core
from gateway.errors import Problem, Refused, Shape
from gateway.fleet import Replica
from gateway.request import Request
from gateway.server import ClientConnection
from gateway.sink import UpstreamError
from gateway.upstream import Pool, UpstreamConnection
from gateway.wire import KeyRoute

MOST_OPEN = 256
"""Requests that one gateway process passes on at once."""
MOST_ANSWER_BYTES = 32 * 1024 * 1024
"""Of a plain answer, which is held until it is whole."""
RETRY_AFTER_SECONDS = 5.0

_JSON = b"application/json"
_EVENT_STREAM = b"text/event-stream"
_PASSED_BACK = (b"x-hearth-replica", b"x-hearth-route", b"retry-after")

log = logging.getLogger("gateway.passing")


def check_detour(core: Core, key: KeyRoute, call: Call) -> None:
    """Raise Refused unless `key` may ask this of the detour that `call` names."""
    detours, name = core.detours, call.model
    if not detours.is_there(name, key):
        raise Refused(errors.unknown_model(name, allowed_models(key, core.fleet.names)))
    if not detours.may_use(name, key):
        raise Refused(errors.forbidden(f"This key may not use the model {name!r}."))
    if call.endpoint.api is not Api.CHAT:
        raise Refused(
            errors.invalid(f"The model {name!r} answers /v1/chat/completions only.", param="model")
        )


def pass_on(
    core: Core, client: ClientConnection, request: Request, key: KeyRoute, call: Call, fields: str
) -> None:
    """Send `request` to the program behind its model name. Raises Refused.

    `fields` are header lines that every answer of this request carries.
    """
    now, detours = time.monotonic(), core.detours
    if detours.is_away(call.model, now):
        raise Refused(_away(call.model))
    if detours.open >= MOST_OPEN:
        raise Refused(_busy("Too many such requests are under way.", "too_many_requests"))
    use = core.keys.use_of(key.id)
    reservation = use.take(key, 0, now)
    if isinstance(reservation, Problem):
        raise Refused(reservation)
    # Only asked whether there is room: the program's own call is the one that counts.
    use.give_back(reservation, now)
    request_id = core.new_id()
    head = (
        f"content-type: application/json\r\nx-request-id: {request_id}\r\n"
        f"authorization: Bearer {secret_in(request.headers).decode('latin-1')}\r\n"
    )
    passing = Passing(core, client, call, request_id)
    passing.start(detours.pool(call.model), head, f"x-request-id: {request_id}\r\n{fields}")


class Passing:
    """One such request, as a Sink of its program, a Holder of its client, and open in the core."""

    replica: Replica | None = None

    def __init__(self, core: Core, client: ClientConnection, call: Call, request_id: str) -> None:
        self.client = client
        self._core = core
        self._call = call
        self._id = request_id
        self._head = self._fields = ""
        self._pool: Pool
        self._connection: UpstreamConnection | None = None
        self._call_off: Callable[[], None] | None = None
        self._is_second = False
        self._is_closed = False
        self._is_stream = False
        self._status = 0
        self._extra = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._heard_at = time.monotonic()

    def start(self, pool: Pool, head: str, fields: str) -> None:
        """Send it; `head` are the program's header lines, `fields` the client's."""
        self._pool, self._head, self._fields = pool, head, fields
        self.client.holder = self
        self._core.opened(self)
        self._core.detours.open += 1
        self._call_off = pool.open(self)

    # --- The program (gateway.upstream.Sink) -------------------------------------------------

    def connected(self, connection: UpstreamConnection) -> None:
        """Send the request as it came."""
        self._connection, self._call_off = connection, None
        body = self._call.body
        connection.send(
            self._pool.head("POST", self._call.endpoint.path, self._head, len(body)), body
        )

    def answer_began(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Begin the client's answer if it is a stream."""
        self._status, self._heard_at = status, time.monotonic()
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        passed = b"".join(
            name + b": " + headers[name] + b"\r\n" for name in _PASSED_BACK if name in headers
        )
        self._extra = self._fields.encode() + passed
        if kind == _EVENT_STREAM:
            self._is_stream = True
            self.client.begin(status, kind=_EVENT_STREAM, extra=self._extra)
        elif kind != _JSON:
            log.warning("%s: the program answered HTTP %d, %r", self._id, status, kind)
            self._fail(errors.engine_failed(f"The model {self._call.model!r} failed."))

    def answer_data(self, data: bytes) -> None:
        """Pass a stream on; keep the pieces of a plain answer."""
        self._heard_at = time.monotonic()
        if self._is_stream:
            self.client.send(data)
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST_ANSWER_BYTES:
            self._fail(errors.engine_failed("The answer is too large."))

    def answer_ended(self) -> None:
        """The answer is whole."""
        self._connection = None
        if self._is_stream:
            self.client.end()
        else:
            content = b"".join(self._parts)
            self.client.answer(self._status, content, kind=_JSON, extra=self._extra)
        self._close()

    def answer_lost(self, error: UpstreamError) -> None:
        """Tell the client; but a connection that had been closed while idle is tried anew."""
        self._connection = self._call_off = None
        if error.was_reused and not self._is_second:
            self._is_second = True
            self._call_off = self._pool.open(self, fresh=True)
            return
        log.warning("%s: %s: %s", self._id, self._call.model, error)
        self._fail(_away(self._call.model))

    # --- The watchers (gateway.core.OpenRequest) ---------------------------------------------

    def replica_failed(self, reason: str) -> None:
        """It holds none."""

    def check_deadlines(self, now: float) -> None:
        """Give up what takes longer than any deadline, or waits for one that is away."""
        deadlines, name = self._core.settings.deadlines, self._call.model
        began, detours = self._status > 0, self._core.detours
        if not began and name in detours.routes and detours.is_away(name, now):
            self._fail(_away(name))
            return
        limit = deadlines.idle_seconds if began else deadlines.first_byte_seconds
        if not self.client.is_paused and now - self._heard_at > limit:
            self._fail(errors.engine_failed("The engine did not answer in time.", status=504))

    def stop(self) -> None:
        """The gateway stops and will not wait longer."""
        self._fail(_busy("The gateway is stopping.", "stopping"))

    # --- The client (gateway.request.Holder) -------------------------------------------------

    def client_gone(self) -> None:
        """Nobody waits for the answer: the program, and with it the engine, must not go on."""
        self._close()

    def client_paused(self) -> None:
        """Stop reading."""
        if self._connection is not None:
            self._connection.pause()

    def client_resumed(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume()

    # --- The end -----------------------------------------------------------------------------

    def _fail(self, problem: Problem) -> None:
        if self._is_closed:
            return
        if self._is_stream:
            self.client.end(last=errors.event(problem, Shape.OPENAI), close=True)
        else:
            self.client.refuse(problem, Shape.OPENAI, extra=self._fields.encode())
        self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None
        elif self._call_off is not None:
            self._call_off()
        self._core.detours.open -= 1
        self._core.closed(self)
        self.client.holder = None


def _away(name: str) -> Problem:
    return _busy(
        f"The model {name!r} needs the control plane, which does not answer now; the deployment "
        "itself may.",
        "control_plane_away",
    )


def _busy(message: str, code: str) -> Problem:
    return errors.busy(message, code=code, retry_after_seconds=RETRY_AFTER_SECONDS)
