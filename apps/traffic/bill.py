"""What a deployment costs over a window: seconds held, by what they went to; pure.

Allocation adds up the price of all that was reserved, in lines by cause, so that idle money can be
seen for what it is. Usage is the price of the busy time alone. Prices are those of now: their
history is not kept. Called by `costs`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from apps.deployments.states import ReplicaPhase


class Line(StrEnum):
    """What reserved time went to."""

    SERVING = "serving"  # ready, with at least one request
    IDLE = "idle"  # ready, without any
    STARTING = "starting"  # fetching, loading, compiling, warming up
    DRAINING = "draining"
    ASLEEP = "asleep"  # warm pool
    FAILED = "failed"  # between a crash and the next try
    LOST = "lost"  # its host is silent


_LINE_OF = {
    ReplicaPhase.PENDING: Line.STARTING,
    ReplicaPhase.FETCHING: Line.STARTING,
    ReplicaPhase.STARTING: Line.STARTING,
    ReplicaPhase.READY: Line.IDLE,  # what of it was serving is known from the usage records
    ReplicaPhase.DRAINING: Line.DRAINING,
    ReplicaPhase.ASLEEP: Line.ASLEEP,
    ReplicaPhase.FAILED: Line.FAILED,
    ReplicaPhase.LOST: Line.LOST,
}
"""A stopped replica holds nothing."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was served in the window."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    output: int = 0
    usd: Decimal = Decimal(0)
    """Sum of the requests' own costs: the busy time's price."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Seconds that one replica held its share, by line, and the price of one second."""

    seconds: Mapping[Line, float]
    usd_per_second: Decimal
    is_default_price: bool


@dataclass(frozen=True, slots=True)
class Basis:
    """A sum, and what it makes per million tokens, prompt and output together; None without."""

    usd: Decimal
    usd_per_million_tokens: Decimal | None


@dataclass(frozen=True, slots=True)
class Bill:
    """The cost of one deployment over a window."""

    allocation: Basis
    usage: Basis
    lines: Mapping[Line, Decimal]
    """Adds up to the allocation."""
    tokens: Tokens = field(default_factory=Tokens)
    has_default_price: bool = False
    """A host's price was never set: Hearth's default for its kind counts."""

    @property
    def utilization_ratio(self) -> float | None:
        """Return which part of the reserved money did work; None if nothing was reserved."""
        if not self.allocation.usd:
            return None
        return min(1.0, float(self.usage.usd / self.allocation.usd))


def held_seconds(
    history: Sequence[tuple[float, ReplicaPhase]], start: float, end: float
) -> dict[Line, float]:
    """Return for how long within [start, end] a replica held its share, by line.

    `history` are its phases with the time (seconds since the epoch) each began, in order. The last
    one goes on. What comes before the first entry held nothing: the replica had no host yet.
    """
    held: dict[Line, float] = {}
    ends = [at for at, _ in history[1:]] + [end]
    for (at, phase), until in zip(history, ends, strict=False):
        seconds = min(until, end) - max(at, start)
        if phase in _LINE_OF and seconds > 0:
            line = _LINE_OF[phase]
            held[line] = held.get(line, 0.0) + seconds
    return held


def bill(reservations: Iterable[Reservation], tokens: Tokens) -> Bill:
    """Return the bill for what was reserved and what was served."""
    lines = dict.fromkeys(Line, Decimal(0))
    has_default = False
    for reservation in reservations:
        for line, seconds in reservation.seconds.items():
            lines[line] += Decimal(repr(seconds)) * reservation.usd_per_second
            has_default = has_default or reservation.is_default_price
    # A request that began before the window brings cost from before it: never above what was held.
    lines[Line.SERVING] = min(tokens.usd, lines[Line.IDLE])
    lines[Line.IDLE] -= lines[Line.SERVING]
    return Bill(
        allocation=_basis(sum(lines.values(), Decimal(0)), tokens),
        usage=_basis(tokens.usd, tokens),
        lines=lines,
        tokens=tokens,
        has_default_price=has_default,
    )


def _basis(usd: Decimal, tokens: Tokens) -> Basis:
    count = tokens.prompt + tokens.output
    return Basis(usd, usd * 1_000_000 / count if count else None)
