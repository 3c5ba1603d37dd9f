"""What serving costs, from prices, reservations and tokens; pure.

Two bases, kept apart because the choice flips decisions:
- *allocation*: the price of everything that was reserved, idle time included. Adds up to the bill.
- *usage*: the price of the time in which a replica worked on at least one request. Stable under
  changing load, so fit for comparing models and tenants.

A request's own cost is on the usage basis: the busy time that its record brings to light is split
over the requests that ended together, by weighted tokens. So the requests' costs add up to the
busy time's price, and no second is charged twice. Called by `ledger` and `queries`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

type Interval = tuple[float, float]
"""Start and end, seconds since the Unix epoch."""

PROMPT_WEIGHT = 1.0
OUTPUT_WEIGHT = 4.0
"""An output token takes as much of the engine's time as so many prompt tokens; 3 to 30 is usual."""
CACHED_WEIGHT = 0.1

_DIGITS = Decimal("0.000000000001")


@dataclass(frozen=True, slots=True)
class Served:
    """One finished request, as far as its cost goes."""

    id: str
    interval: Interval
    """When it was with its replica: without its time in the gateway's queue."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def weight(self) -> float:
        """Return its tokens in units of an uncached prompt token; at least 1."""
        uncached = max(0, self.prompt_tokens - self.cached_tokens)
        weighted = (
            uncached * PROMPT_WEIGHT
            + self.cached_tokens * CACHED_WEIGHT
            + self.output_tokens * OUTPUT_WEIGHT
        )
        return max(1.0, weighted)


def split(
    served: Sequence[Served], known: Iterable[Interval], usd_per_second: Decimal
) -> dict[str, Decimal]:
    """Return the cost in USD of each of `served`, by id.

    `known` are the intervals of requests of the same replica that were charged before.
    """
    charged = list(known)
    new = max(0.0, union([*charged, *(one.interval for one in served)]) - union(charged))
    usd = Decimal(repr(new)) * usd_per_second
    total = sum(one.weight for one in served)
    return {one.id: (usd * Decimal(repr(one.weight / total))).quantize(_DIGITS) for one in served}


def union(intervals: Iterable[Interval]) -> float:
    """Return how many seconds lie in at least one of `intervals`."""
    seconds, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        seconds += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return seconds
