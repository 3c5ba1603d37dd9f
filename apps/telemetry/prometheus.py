"""`/metrics` of the web process: the fleet's live numbers for Prometheus.

One read of the live numbers and one query a scrape; nothing is counted in this process, so any web
process gives the same answer. Labels are names of deployments and hosts, ids of replicas, indexes
of GPUs: as many as there are of these, never a key, a user or a request. Gateways count requests
and tokens on their own `/metrics`. A scrape comes from this machine, or shows an API token.
"""

import ipaddress
from collections.abc import Iterable, Iterator

from django.db.models import Max
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from rest_framework.request import Request
from rest_framework.views import APIView

from agents.wire import HostSample
from apps.accounts.permissions import RolePermission
from apps.telemetry import live
from apps.telemetry.models import Tick
from apps.telemetry.numbers import FleetNumbers, Flow, ReplicaNumbers

_FLOW = {
    "in_flight": ("in_flight_requests", "Requests that replicas work on."),
    "queued": ("queued_requests", "Requests that wait in gateways."),
    "requests_per_second": ("requests_per_second", "Admitted requests, last ten seconds."),
    "failed_per_second": ("failed_requests_per_second", "Failed requests, last ten seconds."),
    "prompt_tokens_per_second": ("prompt_tokens_per_second", "Prompt tokens read."),
    "output_tokens_per_second": ("output_tokens_per_second", "Tokens generated."),
    "prefix_cache_hit_ratio": (
        "prefix_cache_hit_ratio",
        "Prompt tokens found in the cache, last minute.",
    ),
}
_QUANTILES = {
    "ttft_seconds": (
        "Arrival at the gateway to the first token, last minute.",
        {"0.5": "ttft_p50_seconds", "0.95": "ttft_p95_seconds"},
    ),
    "chunk_gap_seconds": (
        "Between streamed chunks, last minute.",
        {"0.5": "chunk_gap_p50_seconds", "0.95": "chunk_gap_p95_seconds"},
    ),
}
_REPLICA = {
    "running": "Requests in the engine's batch.",
    "waiting": "Requests that wait in the engine.",
    "kv_cache_usage_ratio": "Part of the engine's KV cache in use.",
    "memory_bytes": "Memory of the engine's processes.",
}
_HOST = {
    "cpu_ratio": "Part of the processors in use.",
    "memory_used_bytes": "Memory in use.",
    "disk_free_bytes": "Free space of the agent's disk.",
}
_GPU = {
    "utilization_ratio": "Part of the time in which the GPU computed.",
    "memory_used_bytes": "Memory in use.",
    "power_watts": "Power drawn.",
    "temperature_celsius": "Temperature.",
}


class FromThisMachineOrRole(RolePermission):
    """Lets local scrapers in; everyone else needs at least the role of a viewer."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return whether the scrape may go on."""
        return _is_local(request.META.get("REMOTE_ADDR", "")) or super().has_permission(
            request, view
        )


@extend_schema(exclude=True)
class Metrics(APIView):
    """Prometheus' text format."""

    permission_classes = [FromThisMachineOrRole]

    def get(self, request: Request) -> HttpResponse:
        registry = CollectorRegistry()
        registry.register(_Collected(families(live.numbers(), _ticks())))
        return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Collected:
    """What `CollectorRegistry` wants: an object that gives metric families when asked."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        return self._found


def families(numbers: FleetNumbers, ticks: Iterable[tuple[str, float]]) -> Iterator[Metric]:
    """Return all metric families. `ticks` are periodic jobs and when each was last due and done."""
    yield _plain("hearth_gateways", "Gateways that report.", numbers.gateways)
    yield _plain("hearth_numbers_stale", "1 while live numbers cannot be read.", numbers.stale)
    yield from _deployments(numbers.deployments.items())
    yield from _replicas(numbers.replicas.items())
    yield from _hosts(numbers.hosts.items())
    due = GaugeMetricFamily(
        "hearth_tick_last_success_timestamp_seconds",
        "When a periodic job was last due and done.",
        labels=["tick"],
    )
    for name, at in ticks:
        due.add_metric([name], at)
    yield due


def _plain(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _deployments(flows: Iterable[tuple[str, Flow]]) -> Iterator[Metric]:
    rows = list(flows)
    for field, (name, text) in _FLOW.items():
        family = GaugeMetricFamily(f"hearth_deployment_{name}", text, labels=["deployment"])
        _fill(family, (([key], getattr(flow, field)) for key, flow in rows))
        yield family
    for name, (text, quantiles) in _QUANTILES.items():
        family = GaugeMetricFamily(
            f"hearth_deployment_{name}", text, labels=["deployment", "quantile"]
        )
        for quantile, field in quantiles.items():
            _fill(family, (([key, quantile], getattr(flow, field)) for key, flow in rows))
        yield family


def _replicas(replicas: Iterable[tuple[str, ReplicaNumbers]]) -> Iterator[Metric]:
    rows = list(replicas)
    for field, text in _REPLICA.items():
        family = GaugeMetricFamily(f"hearth_replica_{field}", text, labels=["replica"])
        _fill(family, (([key], getattr(numbers, field)) for key, numbers in rows))
        yield family


def _hosts(hosts: Iterable[tuple[str, HostSample]]) -> Iterator[Metric]:
    rows = list(hosts)
    for field, text in _HOST.items():
        family = GaugeMetricFamily(f"hearth_host_{field}", text, labels=["host"])
        _fill(family, (([key], getattr(sample, field)) for key, sample in rows))
        yield family
    gpus = [([key, str(gpu.index)], gpu) for key, sample in rows for gpu in sample.gpus]
    for field, text in _GPU.items():
        family = GaugeMetricFamily(f"hearth_gpu_{field}", text, labels=["host", "gpu"])
        _fill(family, ((labels, getattr(gpu, field)) for labels, gpu in gpus))
        yield family


def _fill(family: GaugeMetricFamily, values: Iterable[tuple[list[str], float | None]]) -> None:
    """Add what is known; an unknown value has no line, as Prometheus expects."""
    for labels, value in values:
        if value is not None:
            family.add_metric(labels, value)


def _ticks() -> list[tuple[str, float]]:
    rows = Tick.objects.values("name").annotate(newest=Max("due_at")).order_by("name")
    return [(row["name"], row["newest"].timestamp()) for row in rows]


def _is_local(address: str) -> bool:
    """Return whether `address` is this machine's own; a Unix socket's peer has none."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
