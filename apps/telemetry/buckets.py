"""From readings of gateways and agents to buckets of a time series; pure.

A bucket holds numbers that add up, so that buckets of any width and source merge without loss:
sums (with the number of samples behind a mean), peaks, and histograms. Called by `actions`, and by
`queries` for reading them back.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from agents.wire import HostSample, ReplicaSample
from apps.telemetry import counters, percentiles
from apps.telemetry.counters import Seen, Slot
from apps.telemetry.numbers import SHORT_SECONDS
from apps.telemetry.states import Subject
from gateway.wire import Counts, Live

type Key = tuple[Subject, str]
"""What a bucket is about: a deployment's or host's name, or a replica's UUID as text."""

_COUNTED = {
    "requests": "requests_total",
    "failed": "failed_total",
    "refused": "refused_total",
    "prompt_tokens": "prompt_tokens_total",
    "cached_tokens": "cached_tokens_total",
    "output_tokens": "output_tokens_total",
    "ttft_seconds": "ttft_sum_seconds",
    "chunk_gap_seconds": "gap_sum_seconds",
}
_ENGINE_COUNTED = {
    "engine_prompt_tokens": "prompt_tokens",
    "engine_output_tokens": "output_tokens",
    "cache_queries": "cache_queries",
    "cache_hits": "cache_hits",
}
_ENGINE_GAUGES = ("running", "waiting", "kv_cache_usage_ratio", "memory_bytes")


@dataclass(slots=True)
class Bucket:
    """Sums, peaks and histograms by measure. A mean is `sums[x] / sums[samples]`."""

    sums: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[int]] = field(default_factory=dict)

    def add(self, **sums: float) -> None:
        """Add to sums."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def reach(self, **peaks: float) -> None:
        """Lift peaks."""
        for name, value in peaks.items():
            self.peaks[name] = max(self.peaks.get(name, value), value)

    def count(self, name: str, buckets: Sequence[int]) -> None:
        """Add a histogram."""
        if any(buckets):
            self.histograms[name] = list(percentiles.add(self.histograms.get(name, ()), buckets))

    def merge(self, other: "Bucket") -> None:
        """Add all of `other`."""
        self.add(**other.sums)
        self.reach(**other.peaks)
        for name, buckets in other.histograms.items():
            self.count(name, buckets)

    @property
    def is_idle(self) -> bool:
        """Return whether nothing happened: only zeros were sampled."""
        return not any(self.peaks.values()) and not any(
            value for name, value in self.sums.items() if not name.endswith("samples")
        )


def merged(buckets: Iterable[tuple[Key, Bucket]]) -> dict[Key, Bucket]:
    """Return one bucket a subject."""
    result: dict[Key, Bucket] = defaultdict(Bucket)
    for key, bucket in buckets:
        result[key].merge(bucket)
    return dict(result)


def filled(slots: Sequence[Slot], lead: int) -> list[Slot]:
    """Return the slots from `lead` on; a source without a reading has its last of `lead` before.

    So a post that came late costs no count: its change falls into the slot of the next one.
    """
    result = []
    for last in range(lead, len(slots)):
        near = slots[last - lead : last + 1]
        result.append(
            Slot(
                gateways={name: seen for slot in near for name, seen in slot.gateways.items()},
                hosts={name: seen for slot in near for name, seen in slot.hosts.items()},
            )
        )
    return result


def from_slots(slots: Sequence[Slot]) -> dict[Key, Bucket]:
    """Return what happened from the first slot to the last one, which only closes the span.

    Subjects that were idle throughout are left out.
    """
    result: dict[Key, Bucket] = defaultdict(Bucket)
    for slot, after in pairwise(slots):
        _add_gauges(result, slot)
        _add_hosts(result, slot)
        _add_gateway_changes(result, slot, after)
        _add_engine_changes(result, slot, after)
    return {key: bucket for key, bucket in result.items() if not bucket.is_idle}


def _add_gauges(result: dict[Key, Bucket], slot: Slot) -> None:
    """A subject's gauge is the sum over the gateways of one moment."""
    together: dict[Key, list[Counts]] = defaultdict(list)
    for seen in slot.gateways.values():
        for name, counts in seen.reading.deployments.items():
            together[Subject.DEPLOYMENT, name].append(counts)
        for name, counts in seen.reading.replicas.items():
            together[Subject.REPLICA, name].append(counts)
    for key, many in together.items():
        in_flight, queued = sum(c.in_flight for c in many), sum(c.queued for c in many)
        result[key].add(samples=1, in_flight=in_flight, queued=queued)
        result[key].reach(in_flight=in_flight, queued=queued)


def _add_gateway_changes(result: dict[Key, Bucket], slot: Slot, after: Slot) -> None:
    for name, seen in after.gateways.items():
        change = _gateway_change(seen, slot.gateways.get(name))
        if change is None:
            continue
        for deployment, counts in change.deployments.items():
            _add_counts(result[Subject.DEPLOYMENT, deployment], counts)
        for replica, counts in change.replicas.items():
            _add_counts(result[Subject.REPLICA, replica], counts)


def _gateway_change(seen: Seen[Live], before: Seen[Live] | None) -> counters.GatewayChange | None:
    return counters.gateway_change(seen, before, SHORT_SECONDS)


def _add_counts(bucket: Bucket, counts: Counts) -> None:
    bucket.add(**{name: getattr(counts, field_) for name, field_ in _COUNTED.items()})
    bucket.count("ttft", counts.ttft_buckets)
    bucket.count("chunk_gap", counts.gap_buckets)


def _add_engine_changes(result: dict[Key, Bucket], slot: Slot, after: Slot) -> None:
    before = _samples(slot)
    for replica, sample in _samples(after).items():
        change = counters.engine_change(sample, before.get(replica))
        if change is not None:
            sums = {name: getattr(change, field_) for name, field_ in _ENGINE_COUNTED.items()}
            result[Subject.REPLICA, replica].add(**sums)


def _add_hosts(result: dict[Key, Bucket], slot: Slot) -> None:
    for replica, sample in _samples(slot).items():
        gauges = {name: getattr(sample, name) or 0 for name in _ENGINE_GAUGES}
        result[Subject.REPLICA, replica].add(engine_samples=1, **gauges)
        result[Subject.REPLICA, replica].reach(**gauges)
    for host, seen in slot.hosts.items():
        if seen.reading.host_sample is not None:
            gauges = _host_gauges(seen.reading.host_sample)
            result[Subject.HOST, host].add(samples=1, **gauges)
            result[Subject.HOST, host].reach(**gauges)


def _samples(slot: Slot) -> dict[str, ReplicaSample]:
    return {s.replica_id: s for seen in slot.hosts.values() for s in seen.reading.samples}


def _host_gauges(sample: HostSample) -> dict[str, float]:
    gauges: dict[str, float] = {
        "cpu_ratio": sample.cpu_ratio,
        "memory_used_bytes": sample.memory_used_bytes,
    }
    if sample.gpus:
        busy = [gpu.utilization_ratio or 0.0 for gpu in sample.gpus]
        gauges["gpu_utilization_ratio"] = sum(busy) / len(busy)
        gauges["gpu_memory_used_bytes"] = sum(gpu.memory_used_bytes for gpu in sample.gpus)
    return gauges
