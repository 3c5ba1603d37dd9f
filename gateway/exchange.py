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
from dataclasses import dataclass

from gateway import errors
from gateway.admission import Ticket
from gateway.call import Call
from gateway.core import Core
from gateway.errors import Problem
from gateway.fleet import Deployment, Replica, Waiter
from gateway.limits import Reservation
from gateway.record import Ending, ended
from gateway.relay import Plain, Streamed
from gateway.router import ALPHAS, Ask, choose
from gateway.server import ClientConnection
from gateway.sse import StreamReader
from gateway.upstream import UpstreamConnection, UpstreamError
from gateway.wire import KeyRoute, Outcome, UsageRecord

MOST_RETRIES = 2
FIRST_COMFORT_SECONDS = 10.0
"""When a stream that only waits for its turn hears so. Before that, a refusal has a status of its
own; clients and proxies wait longer than this."""

WAKING_COMFORT_SECONDS = 1.0
"""The same while the deployment starts: the wait will be long, and the reason is news."""

COMFORT_PERIOD_SECONDS = 5.0
_EVENT_STREAM = b"text/event-stream"
_KEY_REFUSED = (401, 403)

log = logging.getLogger("gateway.exchange")


@dataclass(slots=True)
class Order:
    """What an exchange is to do: fixed from its arrival on."""

    call: Call
    key: KeyRoute
    reservation: Reservation
    request_id: str
    client_request_id: str
    session: str
    blocks: list[bytes]
    prompt_tokens: int
    """An estimate, from the deployment's learned bytes per token."""
    body: bytes
    """What the engine gets."""
    head_fields: bytes
    """Header lines for the engine."""
    answer_fields: bytes
    """Header lines for the client."""
    drop_usage: bool
    drop_running: bool
    received_at: float


class Exchange:
    """One request from its arrival to its end."""

    def __init__(
        self, core: Core, client: ClientConnection, deployment: Deployment, order: Order
    ) -> None:
        self.core = core
        self.client = client
        self.deployment = deployment
        self.order = order
        self.replica: Replica | None = None
        self._last_replica_id = ""
        self._uncached_tokens = 0
        self._is_prefilled = False
        self._tried: set[str] = set()
        self._retries = 0
        self._is_second_connection = False
        self._connection: UpstreamConnection | None = None
        self._call_off: Callable[[], None] | None = None
        self._relay: Plain | Streamed | None = None
        self._route = b""
        self._status = 0
        self._sent_at = 0.0
        self._ticket: Ticket[Waiter] | None = None
        self._comforted_at = 0.0
        self._is_headed = False
        """The head went out with a waiting comment: from now on errors are events."""
        self._opened: UsageRecord | None = None
        self._slot = -1
        self._is_closed = False

    def start(self) -> None:
        """Find a replica, or wait for one."""
        self.client.holder = self
        self.core.opened(self)
        if self.deployment.queue.length or not self._dispatch():
            self._wait()

    # --- The queue (gateway.fleet.Waiter) ----------------------------------------------------

    def _wait(self) -> None:
        ticket: Ticket[Waiter] = Ticket(self.order.key.id, self, self.order.received_at)
        if self.deployment.queue.enter(ticket):
            self._ticket = ticket
            self.core.on_change()
            return
        now = time.monotonic()
        self._refuse(
            errors.busy(
                f"The deployment {self.deployment.name!r} is full, and so is its queue.",
                code="deployment_full",
                retry_after_seconds=self.deployment.queue.retry_after_seconds(now),
            )
        )

    def proceed(self) -> None:
        """A slot is free."""
        self._ticket = None
        if not self._dispatch():
            self._tried.clear()
            if not self._dispatch():
                self._wait()

    def give_up(self, reason: str) -> None:
        """The time to wait ran out, or the gateway stops."""
        self._ticket = None
        now = time.monotonic()
        retry_after = self.deployment.queue.retry_after_seconds(now)
        self._refuse(errors.busy(reason, code="queue_timeout", retry_after_seconds=retry_after))

    def comfort(self, now: float) -> None:
        """Tell a client that streams what it waits for, if it is time to."""
        waking = self.deployment.is_waking
        first = WAKING_COMFORT_SECONDS if waking else FIRST_COMFORT_SECONDS
        waited = now - self.order.received_at
        recently = now - self._comforted_at < COMFORT_PERIOD_SECONDS
        if not self.order.call.stream or waited < first or recently or self.client.is_paused:
            return
        self._comforted_at = now
        if not self._is_headed:
            self._is_headed = True
            self.client.begin(200, kind=_EVENT_STREAM, extra=self.order.answer_fields)
        self.client.send(b": " + self._news().encode() + b"\n\n")

    def _news(self) -> str:
        if not self.deployment.is_waking:
            return "waiting for a free slot"
        wake = self.deployment.route.wake
        if wake is None:
            return "starting"
        phase = "" if wake.phase == "starting" else f", {wake.phase}"
        eta = f", about {wake.eta_seconds:.0f} s" if wake.eta_seconds is not None else ""
        return f"starting{phase}{eta}".replace("\n", " ")

    # --- A replica ---------------------------------------------------------------------------

    def _dispatch(self) -> bool:
        """Send the request to a free replica. Returns False if there is none (but those tried)."""
        deployment, order = self.deployment, self.order
        free = deployment.free()
        if self._tried:
            free = [replica for replica in free if replica.id not in self._tried]
        if not free:
            return False
        spool = self.core.spool
        if self._opened is None and spool is not None and not spool.is_accepting:
            self._refuse(
                errors.busy("Usage cannot be recorded.", code="spool_full", retry_after_seconds=5.0)
            )
            return True
        ask = Ask(
            blocks=order.blocks,
            block_tokens=deployment.block_tokens,
            prompt_tokens=order.prompt_tokens,
            session=order.session,
            now=time.monotonic(),
            turn=deployment.turn,
            alpha=ALPHAS.get(deployment.route.profile, ALPHAS["balanced"]),
        )
        deployment.turn += 1
        choice = choose(deployment.route.policy, free, ask, deployment.prefixes)
        self._uncached_tokens = choice.uncached_tokens
        self._route = choice.reason.encode()
        self._send_to(choice.replica, ask.now)
        return True

    def _send_to(self, replica: Replica, now: float) -> None:
        if self._opened is None:
            self._admit(replica, now)
        self.replica = replica
        self._tried.add(replica.id)
        self._is_prefilled = False
        self._relay = None
        self._sent_at = now
        if replica.tally.in_flight == 0:
            replica.heard_at = now
        self.core.take(self.deployment, replica, self._uncached_tokens, self.order.blocks)
        self._call_off = replica.pool.open(self)

    def _admit(self, replica: Replica, now: float) -> None:
        """Write the admission: from here on the request ends in exactly one record."""
        order, call = self.order, self.order.call
        self._opened = UsageRecord(
            id=order.request_id,
            key_id=order.key.id,
            deployment=self.deployment.name,
            replica=replica.id,
            model=call.model,
            path=call.endpoint.path,
            stream=call.stream,
            admitted_at=time.time(),
            queue_seconds=now - order.received_at,
            outcome=Outcome.GATEWAY_LOST,
            error="the gateway ended before the request did",
            bytes_in=len(call.body),
            parent_id=order.client_request_id,
        )
        if self.core.spool is not None:
            self._slot = self.core.spool.admit(self._opened)
        self.deployment.tally.in_flight += 1
        self.deployment.tally.requests += 1
        self.core.on_change()

    # --- The answer (gateway.upstream.Sink) --------------------------------------------------

    def connected(self, connection: UpstreamConnection) -> None:
        """Send the request."""
        self._connection = connection
        order = self.order
        head = connection.pool.head(
            "POST", order.call.endpoint.path, order.head_fields, len(order.body)
        )
        connection.send(head, order.body)

    def answer_began(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Judge the head; most of what is wrong is worth another replica."""
        replica = self._current()
        replica.heard_at = time.monotonic()
        self._status = status
        if status >= 500 or status in _KEY_REFUSED:
            self._attempt_failed(f"HTTP {status}", blame=status != 503)
            return
        replica.breaker.answered()
        kind = headers.get(b"content-type", b"application/json")
        order = self.order
        extra = b"x-hearth-replica: %b\r\nx-hearth-route: %b\r\n%b" % (
            replica.id.encode(),
            self._route,
            order.answer_fields,
        )
        head = None if self._is_headed else (status, kind, extra)
        if kind.startswith(_EVENT_STREAM):
            reader = StreamReader(
                order.call.endpoint.api,
                drop_usage=order.drop_usage,
                drop_running=order.drop_running,
            )
            self._relay = Streamed(
                self.client, reader, places=(self.deployment, replica), head=head
            )
        else:
            self._relay = Plain(
                self.client, order.call.endpoint.api, head=head or (status, b"", b""),
                as_event=head is None,
            )  # fmt: skip

    def answer_data(self, data: bytes) -> None:
        """Pass on a piece."""
        relay = self._relay
        if relay is None:
            return
        relay.data(data)
        if not self._is_prefilled:
            self._first_data(relay)
        if relay.error is not None:
            self._attempt_failed(relay.error)

    def _first_data(self, relay: Plain | Streamed) -> None:
        self._is_prefilled = True
        replica = self._current()
        self.core.prefilled(self.deployment, replica, self._uncached_tokens)
        if isinstance(relay, Streamed):
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
        if blame and replica.breaker.failed(time.monotonic(), certain=certain):
            self.core.eject(self.deployment, replica, reason)
        began = relay is not None and relay.began
        if began or self._retries >= MOST_RETRIES or self.core.is_stopping:
            self._fail(reason)
            return
        others = [r for r in self.deployment.usable if r.id not in self._tried]
        if not others and was_sent:
            self._fail(reason)
            return
        self._retries += 1
        self.deployment.tally.retried += 1
        self._is_second_connection = False
        if not self._dispatch():
            self._wait()

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
            retry_after = self.deployment.queue.retry_after_seconds(time.monotonic())
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
            self.client.send(errors.event(problem, shape))
            self.client.end(close=True)
            return
        self.client.refuse(problem, shape, extra=self.order.answer_fields)

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
        self._last_replica_id = replica.id

    def _close(self, outcome: Outcome, status: int, error: str = "") -> None:
        """End the request: free all it held, write its record, let the next one in."""
        if self._is_closed:
            return
        self._is_closed = True
        now = time.monotonic()
        had_replica = self.replica is not None
        self._leave_replica()
        if self._ticket is not None:
            self.deployment.queue.leave(self._ticket)
        self.core.closed(self)
        self.client.holder = None
        use = self.core.keys.use_of(self.order.key.id)
        if self._opened is None:
            use.give_back(self.order.reservation, now)
            self.deployment.tally.refused += 1
        else:
            record = ended(self._opened, self._ending(outcome, status, error, now, had_replica))
            if self.core.spool is not None:
                self.core.spool.close(self._slot, record)
            self._count(record)
            use.settle(self.order.reservation, record.prompt_tokens + record.output_tokens, now)
            self.deployment.tally.in_flight -= 1
            self.deployment.queue.freed(now)
        self.core.pump(self.deployment)
        self.core.on_change()

    def _ending(
        self, outcome: Outcome, status: int, error: str, now: float, had_replica: bool
    ) -> Ending:
        relay, order = self._relay, self.order
        is_stream = isinstance(relay, Streamed)
        first_at = relay.first_at if relay is not None and is_stream else 0.0
        reached_engine = had_replica and outcome is not Outcome.COMPLETED
        is_broken = reached_engine or bool(relay and relay.chunks)
        return Ending(
            outcome=outcome,
            status=status,
            error=error,
            replica=self._last_replica_id,
            total_seconds=now - order.received_at,
            ttft_seconds=first_at - order.received_at if first_at else None,
            usage=relay.usage if relay is not None else None,
            prompt_estimate_tokens=order.prompt_tokens if is_broken else 0,
            chunks=relay.chunks if relay is not None else 0,
            bytes_out=self.client.bytes_out,
            retries=self._retries,
        )

    def _count(self, record: UsageRecord) -> None:
        deployment = self.deployment
        if not record.estimated:
            deployment.learn_bytes_per_token(self.order.call.prompt_bytes, record.prompt_tokens)
        replica = deployment.replicas.get(record.replica)
        is_failed = record.outcome is Outcome.FAILED and record.status >= 500
        for tally in (deployment.tally, replica.tally if replica else None):
            if tally is not None:
                tally.failed += is_failed
                tally.prompt_tokens += record.prompt_tokens
                tally.cached_tokens += record.cached_tokens or 0
                tally.output_tokens += record.output_tokens
