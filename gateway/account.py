"""What one request costs its key and shows in the numbers: opened at admission, closed once.

Called by `gateway.exchange` alone, which sees to it that every admitted request is closed.
"""

import time

import msgspec

from gateway.core import Core
from gateway.fleet import Deployment
from gateway.order import Order
from gateway.shapes import Usage
from gateway.wire import Outcome, UsageRecord


class Ending(msgspec.Struct, gc=False):
    """How a request ended, as the exchange saw it."""

    outcome: Outcome
    status: int
    error: str
    replica: str
    revision: int
    failed_revisions: tuple[int, ...]
    first_at: float
    """When the first byte of a stream came (monotonic); 0 = it never did, or no stream."""
    usage: Usage | None
    chunks: int
    reached_engine: bool
    """An engine worked on it without bringing it to its end."""
    bytes_out: int
    retries: int


class Account:
    """The books of one request."""

    __slots__ = ("_core", "_deployment", "_opened", "_order", "_slot")

    def __init__(self, core: Core, deployment: Deployment, order: Order) -> None:
        self._core = core
        self._deployment = deployment
        self._order = order
        self._opened: UsageRecord | None = None
        self._slot = -1

    @property
    def is_admitted(self) -> bool:
        """True from the admission on: the request will have exactly one record."""
        return self._opened is not None

    def open(self, replica_id: str, now: float) -> None:
        """Write the admission, before any engine is touched."""
        order = self._order
        call = order.call
        self._opened = UsageRecord(
            id=order.request_id,
            key_id=order.key.id,
            deployment=self._deployment.name,
            replica=replica_id,
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
        if self._core.spool is not None:
            self._slot = self._core.spool.admit(self._opened)
        self._deployment.tally.in_flight += 1
        self._deployment.tally.requests += 1
        self._core.on_change()

    def close(self, ending: Ending, now: float) -> None:
        """Write how it ended and settle with the key; an unadmitted request costs nothing."""
        order, opened = self._order, self._opened
        use = self._core.keys.use_of(order.key.id)
        if opened is None:
            use.give_back(order.reservation, now)
            if self._core.sharing is not None:
                self._core.sharing.used(order.key.id, -1, -order.reservation.tokens)
            self._deployment.tally.refused += 1
            return
        record = self._record(opened, ending, now)
        if self._core.spool is not None:
            self._core.spool.close(self._slot, record)
        tokens = record.prompt_tokens + record.output_tokens
        use.settle(order.reservation, tokens, now)
        if self._core.sharing is not None:
            self._core.sharing.used(order.key.id, 0, tokens - order.reservation.tokens)
        self._deployment.tally.in_flight -= 1
        self._deployment.queue.freed(now)
        self._count(record)

    def _record(self, opened: UsageRecord, ending: Ending, now: float) -> UsageRecord:
        usage, order = ending.usage, self._order
        is_counted_here = usage is None and (ending.chunks > 0 or ending.reached_engine)
        first_at = ending.first_at
        return UsageRecord(
            id=opened.id,
            key_id=opened.key_id,
            deployment=opened.deployment,
            replica=ending.replica,
            model=opened.model,
            path=opened.path,
            stream=opened.stream,
            admitted_at=opened.admitted_at,
            queue_seconds=opened.queue_seconds,
            ttft_seconds=first_at - order.received_at if first_at else None,
            total_seconds=now - order.received_at,
            prompt_tokens=usage.prompt if usage else order.prompt_tokens * is_counted_here,
            cached_tokens=usage.cached if usage else None,
            output_tokens=usage.output if usage else ending.chunks,
            reasoning_tokens=usage.reasoning if usage else None,
            estimated=is_counted_here,
            outcome=ending.outcome,
            status=ending.status,
            error=ending.error,
            bytes_in=opened.bytes_in,
            bytes_out=ending.bytes_out,
            retries=ending.retries,
            parent_id=opened.parent_id,
            revision=ending.revision,
            failed_revisions=ending.failed_revisions,
        )

    def _count(self, record: UsageRecord) -> None:
        deployment = self._deployment
        if not record.estimated:
            prompt_bytes = self._order.call.prompt_bytes
            deployment.learn_bytes_per_token(prompt_bytes, record.prompt_tokens)
        replica = deployment.replicas.get(record.replica)
        is_failed = record.outcome is Outcome.FAILED and record.status >= 500
        for tally in (deployment.tally, replica.tally if replica else None):
            if tally is not None:
                tally.failed += is_failed
                tally.prompt_tokens += record.prompt_tokens
                tally.cached_tokens += record.cached_tokens or 0
                tally.output_tokens += record.output_tokens
