"""What counters counted between two readings, safe against resets; pure.

A gateway tells its restart by `started_at`, an engine by counters that fall. After either, what
was counted since the restart is counted, and what came between the last reading and the restart is
not. Called by `numbers` and `buckets`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from agents.wire import HostSample, ReplicaSample
from apps.telemetry import percentiles
from gateway.wire import Counts, Live

NOTHING = Counts()

_COUNTERS = (
    "requests_total",
    "failed_total",
    "refused_total",
    "prompt_tokens_total",
    "cached_tokens_total",
    "output_tokens_total",
    "ttft_sum_seconds",
    "gap_sum_seconds",
)
_ENGINE_COUNTERS = (
    "prompt_tokens_total",
    "output_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "requests_total",
)


class HostReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent sampled: the part of `agents.wire.Report` that is numbers."""

    samples: tuple[ReplicaSample, ...] = ()
    host_sample: HostSample | None = None


@dataclass(frozen=True, slots=True)
class Seen[Reading]:
    """A reading and when the control plane received it, seconds since the epoch."""

    at: float
    reading: Reading


@dataclass(frozen=True, slots=True)
class Slot:
    """The first reading of each source in one slot of time."""

    gateways: Mapping[str, Seen[Live]]
    hosts: Mapping[str, Seen[HostReading]]


@dataclass(frozen=True, slots=True)
class GatewayChange:
    """What one gateway counted in a span; gauges are those of its end."""

    seconds: float
    deployments: dict[str, Counts]
    replicas: dict[str, Counts]


@dataclass(frozen=True, slots=True)
class EngineChange:
    """What one engine counted in a span."""

    seconds: float
    prompt_tokens: float
    output_tokens: float
    cache_queries: float
    cache_hits: float
    requests: float


def gateway_change(
    new: Seen[Live], old: Seen[Live] | None, window_seconds: float
) -> GatewayChange | None:
    """Return what a gateway counted from `old` to `new`.

    Without an `old` of the same run the span begins at the gateway's start, if that lies within
    `window_seconds`; else nothing is known: None.
    """
    live = new.reading
    if old is not None and old.reading.started_at == live.started_at:
        base, seconds = old.reading, new.at - old.at
    elif new.at - live.started_at <= window_seconds:
        base, seconds = None, new.at - live.started_at
    else:
        return None
    return GatewayChange(
        seconds=max(seconds, 1.0),
        deployments=_since(live.deployments, base.deployments if base else {}),
        replicas=_since(live.replicas, base.replicas if base else {}),
    )


def _since(new: dict[str, Counts], old: dict[str, Counts]) -> dict[str, Counts]:
    return {name: difference(counts, old.get(name, NOTHING)) for name, counts in new.items()}


def difference(new: Counts, old: Counts) -> Counts:
    """Return the counters of `new` less those of `old`, at least 0, and the gauges of `new`."""
    return msgspec.structs.replace(
        new,
        **{name: max(0, getattr(new, name) - getattr(old, name)) for name in _COUNTERS},
        ttft_buckets=percentiles.subtract(new.ttft_buckets, old.ttft_buckets),
        gap_buckets=percentiles.subtract(new.gap_buckets, old.gap_buckets),
    )


def total(counts: Iterable[Counts]) -> Counts:
    """Return all of `counts` added up, gauges and counters."""
    result = NOTHING
    for more in counts:
        result = _sum(result, more) if result is not NOTHING else more
    return result


def _sum(a: Counts, b: Counts) -> Counts:
    numbers = ("in_flight", "queued", *_COUNTERS)
    return Counts(
        **{name: getattr(a, name) + getattr(b, name) for name in numbers},
        ttft_buckets=percentiles.add(a.ttft_buckets, b.ttft_buckets),
        gap_buckets=percentiles.add(a.gap_buckets, b.gap_buckets),
    )


def engine_change(new: ReplicaSample, old: ReplicaSample | None) -> EngineChange | None:
    """Return what an engine counted from `old` to `new`; None if the two are no span."""
    if old is None or new.at <= old.at:
        return None
    restarted = any(_value(new, name) < _value(old, name) for name in _ENGINE_COUNTERS)
    changes = [
        _value(new, name) - (0.0 if restarted else _value(old, name)) for name in _ENGINE_COUNTERS
    ]
    return EngineChange(new.at - old.at, *changes)


def _value(sample: ReplicaSample, name: str) -> float:
    value: float | None = getattr(sample, name)
    return value or 0.0
