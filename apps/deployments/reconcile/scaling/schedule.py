"""Bounds by the clock: which windows of a schedule hold at a time. Pure."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from apps.deployments import cron
from apps.deployments.reconcile.scaling.values import Window


def bounds(schedule: tuple[Window, ...], at: float, ahead_seconds: float) -> tuple[int, int | None]:
    """Return the floor and the ceiling that windows set at `at`; `(0, None)` where none does.

    A floor already holds `ahead_seconds` before its window: replicas are ready when it begins.
    Of windows that overlap, the highest floor and the highest ceiling count.
    """
    if not schedule:
        return 0, None
    minute, ahead = int(at // 60), int((at + max(0.0, ahead_seconds)) // 60)
    now = [w for w in schedule if _holds(w, minute)]
    soon = [w for w in schedule if _holds(w, ahead)]
    floor = max((w.min_replicas or 0 for w in (*now, *soon)), default=0)
    ceilings = [w.max_replicas for w in now if w.max_replicas is not None]
    ceiling = max(ceilings) if ceilings else None
    return floor, ceiling if ceiling is None else max(ceiling, floor)


@lru_cache(maxsize=8192)
def _holds(window: Window, minute: int) -> bool:
    """Return whether `window` holds in the `minute` since the epoch."""
    instant = datetime.fromtimestamp(minute * 60, UTC)
    local = instant.astimezone(ZoneInfo(window.timezone)).replace(tzinfo=None)
    within = timedelta(seconds=window.duration_seconds)
    return cron.parse(window.cron).last_firing(local, within) is not None
