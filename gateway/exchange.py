"""One inference request's life: queue, replica, retries, answer, and exactly one usage record.

    arrived -> (queued ->) sent to a replica -> relayed -> closed

All moves are synchronous callbacks of the client connection, the upstream connection and the
ticker; `_close` is the one exit and acts once. Until a byte of an engine's answer has gone to the
client a failure moves to another replica (at most `MOST_RETRIES` times); after it the client is
told in the stream, and `[DONE]` never follows. `gateway.intake` makes exchanges.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from gateway import errors
from gateway.account import Account
from gateway.core import Core
from gateway.errors import Problem
from gateway.fleet import Deployment, Replica
from gateway.meter import prompt_of
from gateway.order import Order
from gateway.record import Ending
from gateway.relay import Plain, Streamed
from gateway.router import Ask, choose, typical
from gateway.server import ClientConnection
from gateway.shadow import shadow
from gateway.sink import UpstreamError
from gateway.split import narrow
from gateway.sse import StreamReader
from gateway.upstream import UpstreamConnection
from gateway.waiting import EVENT_STREAM, Wait
from gateway.wire import Outcome

MOST_RETRIES = 2

log = logging.getLogger("gateway.exchange")
_monotonic: Final[Callable[[], float]] = time.monotonic


class Exchange:
    """One request from its arrival to its end."""

    # Where every request begins; class attributes, because most requests change few of them.
    replica: Replica | None = None
    _last_replica_id = ""
    _last_revision = 0
    _failed_revisions: tuple[int, ...] = ()
    _uncached_tokens = 0
    _is_prefilled = False
    _tried: tuple[str, ...] = ()
    _retries = 0
    _is_second_connection = False
    _connection: UpstreamConnection | None = None
    _call_off: Callable[[], None] | None = None
    _route = ""
    _status = 0
    _sent_at = 0.0
    _wait: Wait | None = None
    _is_closed = False

    def __init__(
        self, core: Core, client: ClientConnection, deployment: Deployment, order: Order
    ) -> None:
        self.core = core
        self.client = client
        self.deployment = deployment
        self.order = order
        # Not above: mypyc leaves a default of None out where the type is a union of three.
        self._relay: Plain | Streamed | None = None
        self._account = Account(core, deployment, order)

    def start(self) -> None:
        """Find a replica, or wait for one."""
        self.client.holder = self
        self.core.opened(self)
        if self.deployment.queue.length or not self._dispatch():
            self._queue()

    # --- The queue ---------------------------------------------------------------------------

    def _queue(self) -> None:
        if self._wait is None:
            self._wait = Wait(
                self.client,
                self.deployment,
                self.order,
                proceed=self._proceed,
                refuse=self._refuse,
            )
        self._wait.enter()
        self.core.has_waiting.set()
        self.core.on_change()

    def _proceed(self) -> None:
        """A slot is free."""
        if not self._dispatch():
            self._tried = ()
            if not self._dispatch():
                self._queue()

    @property
    def _is_headed(self) -> bool:
        return self._wait is not None and self._wait.is_headed

    # --- A replica ---------------------------------------------------------------------------

    def _dispatch(self) -> bool:
        """Send the request to a free replica. Returns False if there is none (but those tried)."""
        deployment, order = self.deployment, self.order
        free = deployment.free()
        if self._tried:
            free = [replica for replica in free if replica.id not in self._tried]
        if not free:
            return False
        if deployment.shares:
            name = order.session or order.request_id
            free = list(narrow(deployment.shares, free, order.key_id, name))
        spool = self.core.spool
        if not self._account.is_admitted and spool is not None and not spool.is_accepting:
            self._refuse(
                errors.busy("Usage cannot be recorded.", code="spool_full", retry_after_seconds=5.0)
            )
            return True
        replica, now = self._chosen(free)
        self._send_to(replica, now)
        if deployment.has_shadow and not self._retries:
            shadow(self.core, deployment, order)
        return True

    def _chosen(self, free: list[Replica]) -> tuple[Replica, float]:
        """Return the replica to ask, and the time."""
        deployment, order, now = self.deployment, self.order, _monotonic()
        ask = Ask(
            blocks=order.blocks,
            block_tokens=deployment.block_tokens,
            prompt_tokens=order.prompt_tokens,
            session=order.session,
            now=now,
        )
        ask.turn, ask.alpha = deployment.turn, deployment.alpha
        ask.typical_tokens = deployment.typical_tokens
        if not self._retries:
            deployment.turn += 1
        choice = choose(deployment.policy, free, ask, deployment.prefixes)
        self._uncached_tokens, self._route = choice.uncached_tokens, choice.reason
        deployment.typical_tokens = typical(deployment.typical_tokens, choice.uncached_tokens)
        if deployment.shares:
            self._route = f"revision {choice.replica.route.revision}; {choice.reason}"
        return choice.replica, now

    def _send_to(self, replica: Replica, now: float) -> None:
        if not self._account.is_admitted:
            self._account.open(replica.id, now)
        self.replica = replica
        self._tried += (replica.id,)
        self._is_prefilled = False
        self._relay = None
        self._sent_at = now
        if replica.tally.in_flight == 0:
            replica.heard_at = now
        if self.deployment.residency is not None:
            self.deployment.residency.began(self.order.request_id, replica.id, self.order.blocks)
        self._call_off = replica.pool.open(self)
        # The engine is at work meanwhile.
        self.core.take(self.deployment, replica, self._uncached_tokens, self.order.blocks)

    # --- The answer (gateway.upstream.Sink) --------------------------------------------------

    def connected(self, connection: UpstreamConnection) -> None:
        """Send the request."""
        self._connection = connection
        body, path = self.order.body, self.order.call.endpoint.path
        head = connection.pool.head("POST", path, self.order.head_fields, len(body))
        connection.send(head, body)

    def answer_began(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Judge the head; most of what is wrong is worth another replica."""
        replica = self._current()
        replica.heard_at = _monotonic()
        self._status = status
        if status >= 500 or status in (401, 403):
            self._attempt_failed(f"HTTP {status}", blame=status != 503)
            return
        if replica.breaker.failures:
            replica.breaker.answered()
        kind = headers.get(b"content-type", b"application/json")
        order = self.order
        extra = (
            f"x-hearth-replica: {replica.id}\r\nx-hearth-route: {self._route}\r\n"
            f"{order.answer_fields}"
        ).encode()
        head = None if self._is_headed else (status, kind, extra)
        if kind.startswith(EVENT_STREAM):
            reader = StreamReader(
                order.call.endpoint.api, drop_usage=order.drop_usage,
                drop_running=order.drop_running,
            )  # fmt: skip
            places = self.deployment, replica
            self._relay = stream = Streamed(self.client, reader, places=places, head=head)
            if self._connection is not None:
                self._connection.passage = stream
        else:
            self._relay = Plain(self.client, order.call.endpoint, status, head=head)

    def answer_data(self, data: bytes) -> None:
        """Pass on a piece."""
        relay, connection = self._relay, self._connection
        if isinstance(relay, Streamed) and connection is not None:
            relay.data(data, connection.packet, is_last=connection.is_last)
            if not self._is_prefilled and relay.error is None:
                self._first_token(relay)
        elif isinstance(relay, Plain):
            relay.data(data)
        else:
            return
        if relay.error is not None:
            self._attempt_failed(relay.error)

    def _first_token(self, relay: Streamed) -> None:
        self._is_prefilled = True
        replica = self._current()
        self.core.prefilled(self.deployment, replica, self._uncached_tokens)
        ttft_seconds = relay.first_at - self.order.received_at
        self.deployment.tally.ttft.observe(ttft_seconds)
        replica.tally.ttft.observe(ttft_seconds)

    def answer_ended(self) -> None:
        """Close if the answer is whole."""
        self._connection = None
        relay = self._relay
        problem = relay.end() if relay is not None else "an empty answer"
        if problem:
            self._attempt_failed(problem)
        elif self._status < 400:
            self._close(Outcome.COMPLETED, self._status)
        else:
            self._close(Outcome.FAILED, self._status, f"engine: HTTP {self._status}")

    def answer_lost(self, error: UpstreamError) -> None:
        """The connection broke, or was never made."""
        self._connection = self._call_off = None
        if error.was_reused and not self._is_second_connection:
            # An idle connection that the engine had closed: no fault of the replica.
            self._is_second_connection = True
            self._call_off = self._current().pool.open(self, fresh=True)
            return
        self._attempt_failed(str(error), certain=not error.was_sent, was_sent=error.was_sent)

    # --- The watchers (gateway.core.OpenRequest) ---------------------------------------------

    def replica_failed(self, reason: str) -> None:
        """The replica was ejected, or sleeps."""
        self._attempt_failed(reason, blame=False)

    def check_deadlines(self, now: float) -> None:
        """Give up what takes longer than any deadline."""
        if self.replica is None or self.client.is_paused:
            return
        deadlines, relay = self.core.settings.deadlines, self._relay
        if relay is None or not relay.first_at:
            if now - self._sent_at > deadlines.first_byte_seconds:
                self._leave_replica()
                self._fail("no answer in time", status=504)
        elif now - relay.last_at > deadlines.idle_seconds:
            self._leave_replica()
            self._fail("the stream stood still", status=504)

    def stop(self) -> None:
        """The gateway stops and will not wait longer."""
        self._leave_replica()
        self._fail("the gateway stopped", status=503)

    # --- The client (gateway.server.Holder) --------------------------------------------------

    def client_gone(self) -> None:
        """Nobody waits for the answer: the engine must not go on."""
        self._close(Outcome.CLIENT_ABORTED, 499, "the client closed the connection")

    def client_paused(self) -> None:
        """Stop reading from the engine."""
        if self._connection is not None:
            self._connection.pause()

    def client_resumed(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume()

    # --- Failures ----------------------------------------------------------------------------

    def _attempt_failed(
        self, reason: str, *, blame: bool = True, certain: bool = False, was_sent: bool = True
    ) -> None:
        """This replica will not bring the answer: go elsewhere if the client saw nothing yet."""
        replica, relay = self._current(), self._relay
        self._leave_replica()
        log.warning("%s: replica %s: %s", self.order.request_id, replica.id, reason)
        if blame and replica.breaker.failed(_monotonic(), certain=certain):
            self.core.eject(self.deployment, replica, reason)
        began = relay is not None and relay.began
        if began or self._retries >= MOST_RETRIES or self.core.is_stopping:
            self._fail(reason)
            return
        others = [r for r in self.deployment.usable if r.id not in self._tried]
        if not others and was_sent:
            self._fail(reason)
            return
        self._failed_revisions += (replica.route.revision,)
        self._retries += 1
        self.deployment.tally.retried += 1
        self._is_second_connection = False
        if not self._dispatch():
            self._queue()

    def _fail(self, reason: str, *, status: int = 502) -> None:
        """Tell the client that the answer will not come, or not to its end."""
        problem = self._problem(status)
        began = self._relay is not None and self._relay.began
        if began and isinstance(self._relay, Plain):
            self.client.abort()
        else:
            self._tell(problem)
        self._close(Outcome.FAILED, problem.status, reason)

    def _problem(self, status: int) -> Problem:
        if status == 503 or self._status == 503:
            retry_after = self.deployment.queue.retry_after_seconds(_monotonic())
            return errors.busy(
                "The engine is busy or stopping; try again.",
                code="engine_busy",
                retry_after_seconds=retry_after,
            )
        words = "did not answer in time" if status == 504 else "failed before its answer was whole"
        return errors.engine_failed(f"The engine {words}.", status=status)

    def _refuse(self, problem: Problem) -> None:
        """Turn the request away (before or after its admission)."""
        self._tell(problem)
        self._close(Outcome.FAILED, problem.status, problem.message)

    def _tell(self, problem: Problem) -> None:
        shape = self.order.call.endpoint.shape
        if self._is_headed or (self._relay is not None and self._relay.began):
            self.client.end(last=errors.event(problem, shape), close=True)
            return
        self.client.refuse(problem, shape, extra=self.order.answer_fields.encode())

    # --- The end -----------------------------------------------------------------------------

    def _current(self) -> Replica:
        replica = self.replica
        if replica is None:
            raise RuntimeError(f"{self.order.request_id} holds no replica")
        return replica

    def _leave_replica(self) -> None:
        replica, self.replica = self.replica, None
        if replica is None:
            return
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None
        elif self._call_off is not None:
            self._call_off()
        self._call_off = None
        self.core.leave(
            self.deployment, replica, self._uncached_tokens, streamed=self._is_prefilled
        )
        if self.deployment.residency is not None:
            usage = self._relay.usage if self._relay is not None else None
            tokens = prompt_of(usage) if usage is not None else 0
            self.deployment.residency.ended(self.order.request_id, self.order.text_bytes, tokens)
        self._last_replica_id = replica.id
        self._last_revision = replica.route.revision

    def _close(self, outcome: Outcome, status: int, error: str = "") -> None:
        """End the request: free all it held, write its record, let the next one in."""
        if self._is_closed:
            return
        self._is_closed = True
        relay, now = self._relay, _monotonic()
        reached_engine = self.replica is not None and outcome is not Outcome.COMPLETED
        self._leave_replica()
        if self._wait is not None:
            self._wait.leave()
        self.core.closed(self)
        self.client.holder = None
        ending = Ending(outcome, status, error)
        ending.replica, ending.revision = self._last_replica_id, self._last_revision
        ending.retries, ending.failed_revisions = self._retries, self._failed_revisions
        ending.reached_engine, ending.bytes_out = reached_engine, self.client.bytes_out
        if isinstance(relay, Streamed):
            ending.first_at = relay.first_at
        usage, chunks = (relay.usage, relay.chunks) if relay is not None else (None, 0)
        self._account.close(ending, usage, chunks, now)
        self.core.pump(self.deployment)
        self.core.on_change()
