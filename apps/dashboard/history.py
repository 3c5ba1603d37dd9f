"""The past of the charts and sparklines for the first paint, from the stored time series.

A bucket in which nothing happened is not stored; here it is zero for what flows and None for what
cannot be told without requests. The page's script goes on from the last point.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from apps.telemetry import queries
from apps.telemetry.buckets import Bucket
from apps.telemetry.live import SLOT_SECONDS
from apps.telemetry.models import Rollup
from apps.telemetry.percentiles import percentile
from apps.telemetry.states import Step, Subject
from gateway.wire import TTFT_BUCKETS_SECONDS

RANGES = {"5m": 300, "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
"""Ranges of a page's charts, in seconds; the first is live."""
LIVE_RANGE = "5m"
SPARK_SECONDS = 300

_FLOWS = (
    "output_tokens_per_second",
    "prompt_tokens_per_second",
    "in_flight",
    "queued",
)
_OF_REQUESTS = ("ttft_p50_seconds", "ttft_p95_seconds", "prefix_cache_hit_ratio")

type Columns = dict[str, Any]
"""`{"window": seconds, "at": [seconds since the epoch], <field>: [values]}`, oldest first."""


def range_of(text: str) -> str:
    """Return the range that a URL names, the live one if it names none."""
    return text if text in RANGES else LIVE_RANGE


def of_deployment(name: str, wanted: str, *, since: datetime, now: datetime) -> Columns:
    """Return the past of one deployment over the range `wanted`, but not before `since`."""
    series = queries.series(name, RANGES[wanted], now)
    known = {
        point.at.timestamp(): {field: getattr(point, field) for field in (*_FLOWS, *_OF_REQUESTS)}
        for point in series.points
    }
    span = _Span(RANGES[wanted], series.step_seconds, since, now)
    return _columns(span, known)


def of_fleet(*, now: datetime) -> Columns:
    """Return the last minutes of all deployments together. One query."""
    seconds = RANGES[LIVE_RANGE]
    rows = Rollup.objects.filter(
        kind=Subject.DEPLOYMENT,
        step_seconds=Step.FINE,
        start_at__gte=now - timedelta(seconds=seconds),
    ).values_list("start_at", "sums", "peaks", "histograms")
    merged: dict[float, Bucket] = defaultdict(Bucket)
    for start_at, sums, peaks, histograms in rows.order_by("start_at", "id"):
        merged[start_at.timestamp()].merge(Bucket(sums, peaks, histograms))
    known = {at: _values(bucket) for at, bucket in merged.items()}
    first = datetime.fromtimestamp(min(known), now.tzinfo) if known else now
    return _columns(_Span(seconds, Step.FINE, first, now), known)


def sparks(names: Collection[str], *, now: datetime) -> dict[str, list[float]]:
    """Return the output tokens per second of each deployment over the last minutes. One query."""
    rows = Rollup.objects.filter(
        kind=Subject.DEPLOYMENT,
        subject__in=names,
        step_seconds=Step.FINE,
        start_at__gte=now - timedelta(seconds=SPARK_SECONDS),
    ).values_list("subject", "start_at", "sums__output_tokens")
    steps = SPARK_SECONDS // Step.FINE
    first = (int(now.timestamp()) // Step.FINE - steps) * Step.FINE
    found: dict[str, list[float]] = defaultdict(lambda: [0.0] * steps)
    for name, start_at, output_tokens in rows:
        place = int(start_at.timestamp() - first) // Step.FINE
        if 0 <= place < steps:
            found[name][place] = round((output_tokens or 0) / Step.FINE, 2)
    return found


@dataclass(frozen=True)
class _Span:
    seconds: int
    step_seconds: int
    since: datetime
    now: datetime

    def starts(self) -> Iterable[int]:
        """Return the start of each whole bucket in the span, oldest first."""
        step = self.step_seconds
        first = max(self.now.timestamp() - self.seconds, self.since.timestamp())
        return range(int(first // step + 1) * step, int(self.now.timestamp() // step) * step, step)


def _columns(span: _Span, known: dict[float, dict[str, Any]]) -> Columns:
    starts = list(span.starts())
    flows = {f: [_short(known.get(at, {}).get(f, 0)) for at in starts] for f in _FLOWS}
    others = {f: [_short(known.get(at, {}).get(f)) for at in starts] for f in _OF_REQUESTS}
    return {"window": span.seconds, "at": starts, **flows, **others}


def _values(bucket: Bucket) -> dict[str, Any]:
    sums, ttft = bucket.sums, bucket.histograms.get("ttft", ())
    prompt = sums.get("prompt_tokens", 0.0)
    return {
        "output_tokens_per_second": sums.get("output_tokens", 0.0) / Step.FINE,
        "prompt_tokens_per_second": prompt / Step.FINE,
        "in_flight": sums.get("in_flight", 0.0) * SLOT_SECONDS / Step.FINE,
        "queued": sums.get("queued", 0.0) * SLOT_SECONDS / Step.FINE,
        "ttft_p50_seconds": percentile(ttft, TTFT_BUCKETS_SECONDS, 0.5),
        "ttft_p95_seconds": percentile(ttft, TTFT_BUCKETS_SECONDS, 0.95),
        "prefix_cache_hit_ratio": min(1.0, sums.get("cached_tokens", 0.0) / prompt)
        if prompt
        else None,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
