"""The fleet's live numbers, computed from the newest readings and two older ones; pure.

Gauges are the newest. Rates are over the last six to twelve seconds, percentiles and the cache-hit
ratio over the last minute. In flight, queue, requests, latencies are counted by gateways; token
rates come from the engines' own counters, which rise with every step, and from the gateways for an
engine that nobody scrapes. Called by `live`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from agents.wire import HostSample, ReplicaSample
from apps.telemetry import counters
from apps.telemetry.counters import EngineChange, GatewayChange, HostReading, Seen
from apps.telemetry.percentiles import percentile
from gateway.wire import GAP_BUCKETS_SECONDS, TTFT_BUCKETS_SECONDS, Counts, Live

FRESH_SECONDS = 10.0
"""A gateway or host that has been silent for longer shows no numbers."""
SHORT_SECONDS = 15.0
LONG_SECONDS = 65.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What flows through a deployment, a replica or the fleet. None: nothing to tell from."""

    in_flight: int = 0
    queued: int = 0
    requests_per_second: float = 0.0
    failed_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    output_tokens_per_second: float = 0.0
    ttft_p50_seconds: float | None = None
    """Arrival at the gateway to the first token, over the last minute."""
    ttft_p95_seconds: float | None = None
    chunk_gap_p50_seconds: float | None = None
    """Between streamed chunks as the gateway sees them; a chunk may hold several tokens."""
    chunk_gap_p95_seconds: float | None = None
    prefix_cache_hit_ratio: float | None = None
    """Prompt tokens found in the cache per prompt token, over the last minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaNumbers:
    """One replica: what gateways send it, and what its engine says of itself."""

    flow: Flow = Flow()
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage_ratio: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNumbers:
    """All live numbers at one time. `stale`: the store of numbers did not answer."""

    at: float
    stale: bool = False
    gateways: int = 0
    total: Flow = Flow()
    deployments: Mapping[str, Flow] = field(default_factory=dict)
    """By name; a deployment without traffic since its gateway started may be missing."""
    replicas: Mapping[str, ReplicaNumbers] = field(default_factory=dict)
    """By UUID as text."""
    hosts: Mapping[str, HostSample] = field(default_factory=dict)
    """By name."""


@dataclass(frozen=True, slots=True)
class Readings:
    """The readings of one kind of source: newest, some seconds old, a minute old."""

    gateways: tuple[Mapping[str, Seen[Live]], ...]
    hosts: tuple[Mapping[str, Seen[HostReading]], ...]
    members: Mapping[str, str]
    """Replica -> name of its deployment."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """All that is known of one subject before it becomes a `Flow`."""

    short: list[tuple[float, Counts]] = field(default_factory=list)
    """Span in seconds and what one gateway counted in it."""
    long: list[Counts] = field(default_factory=list)
    gauges: list[Counts] = field(default_factory=list)
    engine_short: list[EngineChange] = field(default_factory=list)
    engine_long: list[EngineChange] = field(default_factory=list)


def compute(readings: Readings, now: float) -> FleetNumbers:
    """Return the numbers at `now` (seconds since the epoch)."""
    deployments: dict[str, _Counted] = {}
    replicas: dict[str, _Counted] = {}
    gateways = _fresh(readings.gateways[0], now)
    for name, seen in gateways.items():
        _add_gateway(deployments, replicas, seen, [old.get(name) for old in readings.gateways[1:]])
    samples = _add_engines(deployments, replicas, readings, now)
    flows = {name: _flow(counted) for name, counted in deployments.items()}
    return FleetNumbers(
        at=now,
        gateways=len(gateways),
        total=_total(deployments.values(), flows.values()),
        deployments=flows,
        replicas={name: _replica(counted, samples.get(name)) for name, counted in replicas.items()},
        hosts=_host_samples(_fresh(readings.hosts[0], now)),
    )


def _fresh[R](sources: Mapping[str, Seen[R]], now: float) -> dict[str, Seen[R]]:
    return {name: seen for name, seen in sources.items() if now - seen.at <= FRESH_SECONDS}


def _add_gateway(
    deployments: dict[str, _Counted],
    replicas: dict[str, _Counted],
    new: Seen[Live],
    olds: list[Seen[Live] | None],
) -> None:
    for name, counts in new.reading.deployments.items():
        deployments.setdefault(name, _Counted()).gauges.append(counts)
    for name, counts in new.reading.replicas.items():
        replicas.setdefault(name, _Counted()).gauges.append(counts)
    short = counters.gateway_change(new, olds[0], SHORT_SECONDS)
    long = counters.gateway_change(new, olds[1], LONG_SECONDS)
    _add_changes(deployments, short, long, "deployments")
    _add_changes(replicas, short, long, "replicas")


def _add_changes(
    subjects: dict[str, _Counted],
    short: GatewayChange | None,
    long: GatewayChange | None,
    kind: str,
) -> None:
    for name, counted in subjects.items():
        if short is not None and (counts := getattr(short, kind).get(name)) is not None:
            counted.short.append((short.seconds, counts))
        if long is not None and (counts := getattr(long, kind).get(name)) is not None:
            counted.long.append(counts)


def _add_engines(
    deployments: dict[str, _Counted],
    replicas: dict[str, _Counted],
    readings: Readings,
    now: float,
) -> dict[str, ReplicaSample]:
    fresh = _samples(_fresh(readings.hosts[0], now))
    short, long = (_samples(hosts) for hosts in readings.hosts[1:])
    for name, sample in fresh.items():
        subjects = [replicas.setdefault(name, _Counted())]
        if (deployment := readings.members.get(name)) is not None:
            subjects.append(deployments.setdefault(deployment, _Counted()))
        for counted in subjects:
            if (change := counters.engine_change(sample, short.get(name))) is not None:
                counted.engine_short.append(change)
            if (change := counters.engine_change(sample, long.get(name))) is not None:
                counted.engine_long.append(change)
    return fresh


def _samples(hosts: Mapping[str, Seen[HostReading]]) -> dict[str, ReplicaSample]:
    return {s.replica_id: s for seen in hosts.values() for s in seen.reading.samples}


def _host_samples(hosts: Mapping[str, Seen[HostReading]]) -> dict[str, HostSample]:
    readings = {name: seen.reading.host_sample for name, seen in hosts.items()}
    return {name: sample for name, sample in readings.items() if sample is not None}


def _total(parts: Iterable[_Counted], flows: Collection[Flow]) -> Flow:
    """Token rates add up per deployment, as each may come from engines or from gateways."""
    fleet = _Counted()
    for counted in parts:
        fleet.short.extend(counted.short)
        fleet.long.extend(counted.long)
        fleet.gauges.extend(counted.gauges)
        fleet.engine_long.extend(counted.engine_long)
    return replace(
        _flow(fleet),
        prompt_tokens_per_second=sum(flow.prompt_tokens_per_second for flow in flows),
        output_tokens_per_second=sum(flow.output_tokens_per_second for flow in flows),
    )


def _flow(counted: _Counted) -> Flow:
    minute = counters.total(counted.long)
    return Flow(
        in_flight=sum(counts.in_flight for counts in counted.gauges),
        queued=sum(counts.queued for counts in counted.gauges),
        requests_per_second=_rate(counted.short, "requests_total"),
        failed_per_second=_rate(counted.short, "failed_total"),
        prompt_tokens_per_second=_token_rate(counted, "prompt_tokens"),
        output_tokens_per_second=_token_rate(counted, "output_tokens"),
        ttft_p50_seconds=percentile(minute.ttft_buckets, TTFT_BUCKETS_SECONDS, 0.5),
        ttft_p95_seconds=percentile(minute.ttft_buckets, TTFT_BUCKETS_SECONDS, 0.95),
        chunk_gap_p50_seconds=percentile(minute.gap_buckets, GAP_BUCKETS_SECONDS, 0.5),
        chunk_gap_p95_seconds=percentile(minute.gap_buckets, GAP_BUCKETS_SECONDS, 0.95),
        prefix_cache_hit_ratio=_hit_ratio(minute, counted.engine_long),
    )


def _rate(spans: Iterable[tuple[float, Counts]], name: str) -> float:
    return float(sum(getattr(counts, name) / seconds for seconds, counts in spans))


def _token_rate(counted: _Counted, name: str) -> float:
    if counted.engine_short:
        rates = (getattr(change, name) / change.seconds for change in counted.engine_short)
        return float(sum(rates))
    return _rate(counted.short, f"{name}_total")


def _hit_ratio(minute: Counts, engines: list[EngineChange]) -> float | None:
    """Gateways see cached tokens only where the engine reports them per request."""
    queries = sum(change.cache_queries for change in engines)
    if minute.cached_tokens_total or not queries:
        return _ratio(minute.cached_tokens_total, minute.prompt_tokens_total)
    return _ratio(sum(change.cache_hits for change in engines), queries)


def _ratio(part: float, whole: float) -> float | None:
    return min(1.0, part / whole) if whole else None


def _replica(counted: _Counted, sample: ReplicaSample | None) -> ReplicaNumbers:
    if sample is None:
        return ReplicaNumbers(flow=_flow(counted))
    return ReplicaNumbers(
        flow=_flow(counted),
        running=sample.running,
        waiting=sample.waiting,
        kv_cache_usage_ratio=sample.kv_cache_usage_ratio,
        memory_bytes=sample.memory_bytes,
    )
