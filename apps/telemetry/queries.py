"""Reads of the time series: a deployment's numbers over a window, for charts and for the API."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apps.lib.problems import Problem
from apps.telemetry.buckets import Bucket
from apps.telemetry.live import SLOT_SECONDS
from apps.telemetry.models import Rollup
from apps.telemetry.percentiles import percentile
from apps.telemetry.states import KEEP_SECONDS, Step, Subject
from gateway.wire import GAP_BUCKETS_SECONDS, TTFT_BUCKETS_SECONDS

_WINDOW = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST_POINTS = 720
LONGEST_WINDOW_SECONDS = KEEP_SECONDS[Step.HOUR]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happened in one bucket. None: nothing to tell from."""

    at: datetime
    """Start of the bucket."""
    in_flight: float
    """Mean over time."""
    in_flight_peak: float
    queued: float
    queued_peak: float
    requests: int
    failed: int
    requests_per_second: float
    prompt_tokens_per_second: float
    output_tokens_per_second: float
    ttft_p50_seconds: float | None
    ttft_p95_seconds: float | None
    chunk_gap_p50_seconds: float | None
    chunk_gap_p95_seconds: float | None
    prefix_cache_hit_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points in order of time; a bucket in which nothing happened has none."""

    step_seconds: int
    start_at: datetime
    end_at: datetime
    points: list[Point]
    whole: Point
    """The window as one bucket."""


def window_seconds(text: str) -> int:
    """Return the length of a window such as `15m`, `6h` or `7d`. Raises Problem 400 `invalid`."""
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _UNIT_SECONDS[found[2]] if found else 0
    if not Step.FINE <= seconds <= LONGEST_WINDOW_SECONDS:
        raise Problem(
            400,
            "invalid",
            f"window: `{text}` is not a window of 10s to 400d; write 15m, 6h or 7d.",
            extra={"field": "window"},
        )
    return seconds


def series(deployment: str, window_seconds: int, now: datetime) -> Series:
    """Return what the deployment called `deployment` did in the `window_seconds` before `now`."""
    step = _step_for(window_seconds)
    start = _floor(now - timedelta(seconds=window_seconds), step)
    rows = Rollup.objects.filter(
        kind=Subject.DEPLOYMENT,
        subject=deployment,
        step_seconds=step,
        start_at__gte=start,
        start_at__lt=now,
    ).order_by("start_at", "id")
    found = [(row.start_at, Bucket(row.sums, row.peaks, row.histograms)) for row in rows]
    return Series(
        step_seconds=step,
        start_at=start,
        end_at=now,
        points=[_point(at, bucket, step) for at, bucket in found],
        whole=_point(start, _whole(bucket for _, bucket in found), (now - start).total_seconds()),
    )


def _step_for(seconds: int) -> Step:
    """Return the finest step that is kept long enough and gives not too many points."""
    for step in (Step.FINE, Step.MINUTE):
        if seconds <= KEEP_SECONDS[step] and seconds / step <= _MOST_POINTS:
            return step
    return Step.HOUR


def _whole(buckets: Iterable[Bucket]) -> Bucket:
    whole = Bucket()
    for bucket in buckets:
        whole.merge(bucket)
    return whole


def _point(at: datetime, bucket: Bucket, seconds: float) -> Point:
    sums, peaks = bucket.sums, bucket.peaks
    ttft, gaps = bucket.histograms.get("ttft", ()), bucket.histograms.get("chunk_gap", ())
    return Point(
        at=at,
        in_flight=_mean(sums, "in_flight", seconds),
        in_flight_peak=peaks.get("in_flight", 0.0),
        queued=_mean(sums, "queued", seconds),
        queued_peak=peaks.get("queued", 0.0),
        requests=int(sums.get("requests", 0)),
        failed=int(sums.get("failed", 0)),
        requests_per_second=sums.get("requests", 0.0) / seconds,
        prompt_tokens_per_second=sums.get("prompt_tokens", 0.0) / seconds,
        output_tokens_per_second=sums.get("output_tokens", 0.0) / seconds,
        ttft_p50_seconds=percentile(ttft, TTFT_BUCKETS_SECONDS, 0.5),
        ttft_p95_seconds=percentile(ttft, TTFT_BUCKETS_SECONDS, 0.95),
        chunk_gap_p50_seconds=percentile(gaps, GAP_BUCKETS_SECONDS, 0.5),
        chunk_gap_p95_seconds=percentile(gaps, GAP_BUCKETS_SECONDS, 0.95),
        prefix_cache_hit_ratio=_ratio(sums, "cached_tokens", "prompt_tokens"),
    )


def _mean(sums: dict[str, float], name: str, seconds: float) -> float:
    """Return the mean over time of a gauge; what nobody sampled counts as 0."""
    return sums.get(name, 0.0) * SLOT_SECONDS / seconds


def _ratio(sums: dict[str, float], part: str, whole: str) -> float | None:
    return min(1.0, sums.get(part, 0.0) / sums[whole]) if sums.get(whole) else None


def _floor(at: datetime, step: Step) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // step * step, UTC)
