"""The gateway's numbers for Prometheus: a collector that reads the plain counters when asked.

Labels are deployments and replicas of the current table, so no label grows without bound. Called
by `gateway.app` on `/metrics`.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway import forms
from gateway.core import Core
from gateway.meter import Histogram, Tally

_COUNTERS: dict[str, tuple[str, Callable[[Tally], int]]] = {
    "requests": ("Requests admitted (deployment) or sent (replica)", lambda t: t.requests),
    "failed": ("Requests that an engine failed", lambda t: t.failed),
    "refused": ("Requests refused before admission", lambda t: t.refused),
    "retries": ("Attempts on another replica", lambda t: t.retried),
    "prompt_tokens": ("Prompt tokens", lambda t: t.prompt_tokens),
    "cached_tokens": ("Prompt tokens from the prefix cache", lambda t: t.cached_tokens),
    "output_tokens": ("Tokens generated", lambda t: t.output_tokens),
}
_HISTOGRAMS: dict[str, tuple[str, Callable[[Tally], Histogram]]] = {
    "ttft_seconds": ("Arrival to the first byte of a stream", lambda t: t.ttft),
    "chunk_gap_seconds": ("Gaps between pieces of a stream", lambda t: t.gaps),
}


def exposition(core: Core, connections: int) -> tuple[bytes, str]:
    """Return the text of `/metrics` and its content type."""
    registry = CollectorRegistry()
    registry.register(_Reader(core, connections))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Reader(Collector):
    def __init__(self, core: Core, connections: int) -> None:
        self._core = core
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        deployments = self._core.fleet.deployments.values()
        rows = [([d.name], d.tally) for d in deployments]
        yield from _families("hearth_gateway_deployment_", ["deployment"], rows)
        rows = [([d.name, r.id], r.tally) for d in deployments for r in d.replicas.values()]
        yield from _families("hearth_gateway_replica_", ["deployment", "replica"], rows)
        queued = GaugeMetricFamily(
            "hearth_gateway_deployment_queued", "Requests waiting", labels=["deployment"]
        )
        ejected = GaugeMetricFamily(
            "hearth_gateway_replica_ejected",
            "1 while the circuit is open",
            labels=["deployment", "replica"],
        )
        for deployment in deployments:
            queued.add_metric([deployment.name], deployment.queue.length)
            for replica in deployment.replicas.values():
                ejected.add_metric([deployment.name, replica.id], float(replica.breaker.is_open))
        yield queued
        yield ejected

    def _process(self) -> Iterator[Metric]:
        core = self._core
        gauges = {
            "connections": ("Open client connections", float(self._connections)),
            "table_revision": ("Revision of the routing table", float(core.table_revision)),
            "table_age_seconds": ("Since a table last came", time.monotonic() - core.table_at),
        }
        if core.spool is not None:
            gauges["admissions_open"] = ("Admitted and not ended", float(core.spool.open_count))
            gauges["spool_accepting"] = (
                "0 while usage has no room",
                float(core.spool.is_accepting),
            )
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(f"hearth_gateway_{name}", words, value=value)
        yield InfoMetricFamily(
            "hearth_gateway", "How this process runs", value={"form": forms.active()}
        )


def _families(
    prefix: str, labels: list[str], rows: Iterable[tuple[list[str], Tally]]
) -> Iterator[Metric]:
    rows = list(rows)
    in_flight = GaugeMetricFamily(prefix + "in_flight", "Requests in flight", labels=labels)
    for values, tally in rows:
        in_flight.add_metric(values, tally.in_flight)
    yield in_flight
    for name, (words, count) in _COUNTERS.items():
        family = CounterMetricFamily(prefix + name, words, labels=labels)
        for values, tally in rows:
            family.add_metric(values, count(tally))
        yield family
    for name, (words, histogram) in _HISTOGRAMS.items():
        histograms = HistogramMetricFamily(prefix + name, words, labels=labels)
        for values, tally in rows:
            seen = histogram(tally)
            histograms.add_metric(values, _cumulative(seen), seen.total)
        yield histograms


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    rows, running = [], 0
    bounds = [str(bound) for bound in histogram.bounds] + ["+Inf"]
    for bound, count in zip(bounds, histogram.buckets, strict=True):
        running += count
        rows.append((bound, float(running)))
    return rows
