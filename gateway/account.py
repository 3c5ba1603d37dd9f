"""What one request costs its key and shows in the numbers: opened at admission, closed once.

Called by `gateway.exchange` alone, which sees to it that every admitted request is closed.
"""

import time
from collections.abc import Callable
from typing import Final

from gateway.core import Core
from gateway.fleet import Deployment
from gateway.meter import Tally, cached_of, output_of, prompt_of, reasoning_of
from gateway.order import Order
from gateway.record import Ending, beginning, lost, tail
from gateway.shapes import Usage
from gateway.spool import END_BYTES, OPEN_BYTES, Spool

_wall: Final[Callable[[], float]] = time.time


class Account:
    """The books of one request."""

    __slots__ = ("_beginning", "_core", "_deployment", "_order", "_slot", "is_admitted")

    def __init__(self, core: Core, deployment: Deployment, order: Order) -> None:
        self._core = core
        self._deployment = deployment
        self._order = order
        self._beginning = b""
        self._slot = -1
        self.is_admitted = False
        """True from the admission on: the request will have exactly one record."""

    def open(self, replica_id: str, now: float) -> None:
        """Write the admission, before any engine is touched."""
        order, deployment, spool = self._order, self._deployment, self._core.spool
        if spool is not None:
            self._write_admission(spool, replica_id, now - order.received_at)
        self.is_admitted = True
        tally = deployment.tally
        tally.in_flight += 1
        tally.requests += 1
        self._core.on_change()

    def _write_admission(self, spool: Spool, replica_id: str, queue_seconds: float) -> None:
        order, name, wall = self._order, self._deployment.name, _wall()
        piece = beginning(order, name, wall, queue_seconds, is_short=False)
        end = lost(replica_id, is_short=False)
        if len(piece) + len(end) > OPEN_BYTES:
            piece = beginning(order, name, wall, queue_seconds, is_short=True)
            end = lost(replica_id, is_short=True)
        self._beginning = piece
        self._slot = spool.begin(piece, end)

    def close(self, ending: Ending, usage: Usage | None, chunks: int, now: float) -> None:
        """Write how it ended and settle with the key; an unadmitted request costs nothing."""
        core, order = self._core, self._order
        use = core.keys.use_of(order.key_id)
        if not self.is_admitted:
            use.give_back(order.reservation, now)
            if core.sharing is not None:
                core.sharing.used(order.key_id, -1, -order.reservation.tokens)
            self._deployment.tally.refused += 1
            return
        self._count_tokens(ending, usage, chunks)
        self._write_end(ending, now)
        tokens = ending.prompt_tokens + ending.output_tokens
        use.settle(order.reservation, tokens, now)
        if core.sharing is not None:
            core.sharing.used(order.key_id, 0, tokens - order.reservation.tokens)
        deployment = self._deployment
        deployment.tally.in_flight -= 1
        deployment.queue.freed(now)
        if not ending.is_estimated:
            deployment.learn_bytes_per_token(order.call.prompt_bytes, ending.prompt_tokens)
        _count(deployment.tally, ending)
        replica = deployment.replicas.get(ending.replica)
        if replica is not None:
            _count(replica.tally, ending)

    def _count_tokens(self, ending: Ending, usage: Usage | None, chunks: int) -> None:
        """Take the engine's own count, or one from the chunks that came."""
        if usage is None:
            ending.output_tokens = chunks
            if chunks > 0 or ending.reached_engine:
                ending.is_estimated = True
                ending.prompt_tokens = self._order.prompt_tokens
            return
        ending.prompt_tokens = prompt_of(usage)
        ending.output_tokens = output_of(usage)
        ending.cached_tokens = cached_of(usage)
        ending.reasoning_tokens = reasoning_of(usage)

    def _write_end(self, ending: Ending, now: float) -> None:
        spool, received_at = self._core.spool, self._order.received_at
        ending.total_seconds = now - received_at
        if spool is None:
            return
        ttft_seconds = ending.first_at - received_at if ending.first_at else -1.0
        piece = tail(ending, ttft_seconds, is_short=False)
        if len(piece) > END_BYTES:
            piece = tail(ending, ttft_seconds, is_short=True)
        spool.end(self._slot, self._beginning, piece)


def _count(tally: Tally, ending: Ending) -> None:
    if ending.status >= 500 and ending.outcome == "failed":
        tally.failed += 1
    tally.prompt_tokens += ending.prompt_tokens
    tally.output_tokens += ending.output_tokens
    if ending.cached_tokens > 0:
        tally.cached_tokens += ending.cached_tokens
