"""Copies of requests for a revision that is to be warmed and watched; nobody gets their answers.

A copy is sent after its original and shares nothing with it: whatever becomes of the copy, the
original neither waits nor fails. Copies are bounded in number and time; one too many is not made.
Each leaves a usage record of its own (`Outcome.SHADOW`) without a key, so its cost is known and
nobody is billed. Called by `gateway.exchange`.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.core import Core
from gateway.fleet import Deployment, Replica
from gateway.meter import cached_of, output_of, prompt_of
from gateway.order import Order
from gateway.relay import TAIL_BYTES, usage_at_end
from gateway.shapes import Usage
from gateway.sink import UpstreamError
from gateway.split import point, ready_of
from gateway.sse import StreamReader
from gateway.upstream import UpstreamConnection
from gateway.waiting import EVENT_STREAM
from gateway.wire import Outcome, UsageRecord

MOST_IN_FLIGHT = 32
"""Copies that one gateway process holds at once."""
MOST_SECONDS = 300.0
"""A copy that takes longer is broken off."""


def shadow(core: Core, deployment: Deployment, order: Order) -> None:
    """Send a copy of `order` to the shadow revision, if it is among the share to be copied."""
    wanted = deployment.route.shadow
    if wanted is None or point(f"shadow {order.request_id}") >= wanted.ratio:
        return
    asyncio.get_running_loop().call_soon(_copy, core, deployment, order)


def _copy(core: Core, deployment: Deployment, order: Order) -> None:
    wanted, spool = deployment.route.shadow, core.spool
    if wanted is None or core.shadows >= MOST_IN_FLIGHT or core.is_draining:
        return
    if spool is not None and not spool.is_accepting:
        return
    limit = deployment.limit
    able = [
        replica
        for replica in ready_of(wanted.revision, list(deployment.replicas.values()))
        if replica.in_flight < limit and not replica.breaker.is_open
    ]
    if able:
        Copy(core, deployment, order, min(able, key=_in_flight)).start()


def _in_flight(replica: Replica) -> int:
    return replica.in_flight


class Copy:
    """One copy from its sending to its record."""

    def __init__(self, core: Core, deployment: Deployment, order: Order, replica: Replica) -> None:
        self._core = core
        self._deployment = deployment
        self._order = order
        self._replica = replica
        self._began_at = time.monotonic()
        self._opened = UsageRecord(
            id=f"{order.request_id}-shadow",
            parent_id=order.request_id,
            deployment=deployment.name,
            replica=replica.id,
            revision=replica.route.revision,
            model=order.call.model,
            path=order.call.endpoint.path,
            stream=order.call.stream,
            admitted_at=time.time(),
            outcome=Outcome.SHADOW,
            error="the gateway ended before the copy did",
            bytes_in=len(order.call.body),
        )
        self._slot = -1
        self._connection: UpstreamConnection | None = None
        self._call_off: Callable[[], None] | None = None
        self._reader: StreamReader | None = None
        self._tail = b""
        self._status = 0
        self._first_at = 0.0
        self._bytes = 0
        self._is_second = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take a place at the replica and send."""
        core = self._core
        core.shadows += 1
        if core.spool is not None:
            self._slot = core.spool.admit(self._opened)
        core.take(self._deployment, self._replica, self._order.prompt_tokens, self._order.blocks)
        self._timer = asyncio.get_running_loop().call_later(MOST_SECONDS, self._too_long)
        self._call_off = self._replica.pool.open(self)

    # --- gateway.upstream.Sink ---------------------------------------------------------------

    def connected(self, connection: UpstreamConnection) -> None:
        """Send the copy."""
        self._connection = connection
        order = self._order
        head = connection.pool.head(
            "POST", order.call.endpoint.path, order.head_fields, len(order.body)
        )
        connection.send(head, order.body)

    def answer_began(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Note the status; read a stream for its usage."""
        self._status = status
        if headers.get(b"content-type", b"").startswith(EVENT_STREAM):
            self._reader = StreamReader(self._order.call.endpoint.api, drop_usage=False)

    def answer_data(self, data: bytes) -> None:
        """Count and forget."""
        now = time.monotonic()
        self._bytes += len(data)
        if not self._first_at:
            self._first_at = now
            if self._reader is not None:
                self._core.prefilled(self._deployment, self._replica, self._order.prompt_tokens)
                self._replica.tally.ttft.observe(now - self._began_at)
        if self._reader is not None:
            self._reader.feed(data)
        else:
            self._tail = (self._tail + data)[-TAIL_BYTES:]

    def answer_ended(self) -> None:
        """Close."""
        self._connection = None
        is_cut = self._reader is not None and not self._reader.is_whole
        self._close(502 if is_cut else self._status, "the stream was cut" if is_cut else "")

    def answer_lost(self, error: UpstreamError) -> None:
        """Close; but an idle connection that the engine had closed is no fault: send again."""
        self._connection = self._call_off = None
        if error.was_reused and not self._is_second:
            self._is_second = True
            self._call_off = self._replica.pool.open(self, fresh=True)
            return
        self._close(502, str(error))

    # --- The end -----------------------------------------------------------------------------

    def _too_long(self) -> None:
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None
        elif self._call_off is not None:
            self._call_off()
        self._close(504, f"took more than {MOST_SECONDS:g} s")

    def _close(self, status: int, error: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        core, replica, usage = self._core, self._replica, self._usage()
        if self._timer is not None:
            self._timer.cancel()
        core.shadows -= 1
        was_streaming = self._reader is not None and self._first_at > 0
        tokens = self._order.prompt_tokens
        core.leave(self._deployment, replica, tokens, streamed=was_streaming)
        replica.tally.failed += status >= 500
        replica.tally.prompt_tokens += prompt_of(usage) if usage is not None else 0
        replica.tally.output_tokens += output_of(usage) if usage is not None else 0
        if core.spool is not None:
            core.spool.close(self._slot, self._record(usage, status, error))
        core.pump(self._deployment)
        core.on_change()

    def _usage(self) -> Usage | None:
        return self._reader.usage if self._reader is not None else usage_at_end(self._tail)

    def _record(self, usage: Usage | None, status: int, error: str) -> UsageRecord:
        opened, now = self._opened, time.monotonic()
        is_stream = self._reader is not None and self._first_at > 0
        cached = cached_of(usage) if usage is not None else -1
        return UsageRecord(
            id=opened.id,
            parent_id=opened.parent_id,
            deployment=opened.deployment,
            replica=opened.replica,
            revision=opened.revision,
            model=opened.model,
            path=opened.path,
            stream=opened.stream,
            admitted_at=opened.admitted_at,
            ttft_seconds=self._first_at - self._began_at if is_stream else None,
            total_seconds=now - self._began_at,
            prompt_tokens=prompt_of(usage) if usage is not None else 0,
            cached_tokens=cached if cached >= 0 else None,
            output_tokens=output_of(usage) if usage is not None else 0,
            outcome=Outcome.SHADOW,
            status=status,
            error=error,
            bytes_in=opened.bytes_in,
            bytes_out=self._bytes,
        )
