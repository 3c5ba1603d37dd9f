"""What was measured before: how long starts take, what came at this hour, how late answers begin.

Read once a minute (starts), once an hour (history) and each tick only where a policy asks for it
(TTFT). Called by `scaler`.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from apps.deployments.models import Replica
from apps.deployments.reconcile.observing import FIRST_START_SECONDS, Aside
from apps.deployments.reconcile.scaling_rows import Track
from apps.telemetry import live
from apps.telemetry.live import SLOT_SECONDS
from apps.telemetry.models import Rollup
from apps.telemetry.states import Step, Subject

REFRESH_SECONDS = 60.0
STARTS_READ = 3000
STARTS_COUNTED = 20
PERCENTILE = 0.9
SEASON_DAYS = 7
SEASON_LEAST_DAYS = 5
"""A floor from history: what at least five of the last seven days had at this hour."""


class Measured:
    """What the autoscaler knows beside the numbers of now."""

    def __init__(self) -> None:
        self._starts: dict[UUID, float] = {}
        self._starts_at: datetime | None = None
        self._seasons: dict[str, float] = {}
        self._hour: datetime | None = None
        self._ttft: dict[str, float | None] = {}

    def refresh(self, tracks: Iterable[Track], now: datetime) -> None:
        """Read again what is old."""
        tracks = list(tracks)
        age = None if self._starts_at is None else (now - self._starts_at).total_seconds()
        if age is None or not 0 <= age < REFRESH_SECONDS:
            self._starts_at = now
            self._starts = start_seconds()
        hour = now.replace(minute=0, second=0, microsecond=0)
        if hour != self._hour:
            self._hour = hour
            self._seasons = seasonal(hour)
        self._ttft = {}
        if any(track.policy.ttft_target_seconds is not None for track in tracks):
            flows = live.numbers().deployments
            self._ttft = {name: flow.ttft_p95_seconds for name, flow in flows.items()}

    def aside(self, track: Track, *, rung: bool) -> Aside:
        """Return what is known of one deployment; its measured start is noted on the track."""
        track.start_seconds = self._starts.get(track.id)
        return Aside(
            start_seconds=track.start_seconds or FIRST_START_SECONDS,
            seasonal=self._seasons.get(track.name, 0.0),
            ttft_p95_seconds=self._ttft.get(track.name),
            rung=rung,
        )


def start_seconds() -> dict[UUID, float]:
    """Return the p90 of each deployment's last starts, from order to ready. One query."""
    rows = (
        Replica.objects.filter(ready_at__isnull=False, restarts=0, failures=0)
        .order_by("-ready_at")
        .values_list("deployment_id", "created_at", "ready_at")[:STARTS_READ]
    )
    taken: dict[UUID, list[float]] = defaultdict(list)
    for deployment_id, created_at, ready_at in rows:
        if ready_at is not None and len(taken[deployment_id]) < STARTS_COUNTED:
            taken[deployment_id].append((ready_at - created_at).total_seconds())
    return {key: round(_p90(found), 1) for key, found in taken.items()}


def _p90(found: list[float]) -> float:
    ordered = sorted(found)
    return max(0.5, ordered[min(len(ordered) - 1, int(PERCENTILE * len(ordered)))])


def seasonal(hour: datetime) -> dict[str, float]:
    """Return the requests in flight that at least five of the last seven days had at this hour."""
    starts = [hour - timedelta(days=day) for day in range(1, SEASON_DAYS + 1)]
    rows = Rollup.objects.filter(
        kind=Subject.DEPLOYMENT, step_seconds=Step.HOUR, start_at__in=starts
    ).values_list("subject", "sums__in_flight")
    found: dict[str, list[float]] = defaultdict(list)
    for name, in_flight in rows:
        found[name].append((in_flight or 0.0) * SLOT_SECONDS / Step.HOUR)
    return {
        name: round(sorted(loads, reverse=True)[SEASON_LEAST_DAYS - 1], 2)
        for name, loads in found.items()
        if len(loads) >= SEASON_LEAST_DAYS
    }
