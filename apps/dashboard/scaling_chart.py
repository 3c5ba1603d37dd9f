"""The chart of a deployment's scaling, as SVG paths for the template: no script is needed for it.

In flight over the replicas' room for it, and wanted and ready replicas below, with the decisions
as marks. Values come from `ScalingRecord`, at most a minute old.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from apps.deployments.models import Decision, ScalingRecord

WIDTH, HEIGHT = 800.0, 120.0
WINDOW = timedelta(hours=1)
MOST_POINTS = 400
GAP_SECONDS = 90.0
"""No tick for longer is a gap: nothing happened, or nobody looked."""


@dataclass(frozen=True, kw_only=True)
class Line:
    key: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A decision on the chart."""

    x: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    title: str
    value: str
    top: str
    lines: tuple[Line, ...]
    words: str
    """What a reader who does not see it is told."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    plots: tuple[Plot, ...]
    marks: tuple[Mark, ...]
    start: datetime
    end: datetime


type _Tick = tuple[float, int, int, int, int]
"""`(at, in flight, queued, ready, wanted)`."""


def of(deployment: UUID, decisions: Sequence[Decision], now: datetime) -> Chart | None:
    """Return the chart of the last hour; None when nothing was recorded in it. One query."""
    start = now - WINDOW
    ticks = _ticks(deployment, start)
    if not ticks:
        return None
    flow = _plot(
        "In flight",
        start,
        ticks,
        [("in_flight", lambda t: float(t[1])), ("queued", lambda t: float(t[2]))],
        f"{ticks[-1][1]} in flight, {ticks[-1][2]} queued",
    )
    replicas = _plot(
        "Replicas",
        start,
        ticks,
        [("wanted", lambda t: float(t[4])), ("ready", lambda t: float(t[3]))],
        f"{ticks[-1][3]} ready of {ticks[-1][4]} wanted",
    )
    marks = tuple(
        Mark(x=f"{_x(d.created_at.timestamp(), start):.1f}", reason=d.reason)
        for d in decisions
        if d.created_at >= start
    )
    return Chart(plots=(flow, replicas), marks=marks, start=start, end=now)


def _ticks(deployment: UUID, start: datetime) -> list[_Tick]:
    rows = ScalingRecord.objects.filter(deployment_id=deployment, start_at__gte=start)
    found: list[_Tick] = []
    for ticks in rows.order_by("start_at", "id").values_list("ticks", flat=True):
        found += [_tick(*tick) for tick in ticks]
    return found[:: max(1, -(-len(found) // MOST_POINTS))]


def _tick(at: float, wanted: int, seen: dict[str, Any]) -> _Tick:
    return at, seen.get("in_flight", 0), seen.get("queued", 0), seen.get("ready", 0), wanted


def _plot(
    title: str, start: datetime, ticks: Sequence[_Tick], series: list[Any], value: str
) -> Plot:
    top = max(4.0, *(take(t) for _, take in series for t in ticks))
    lines = tuple(
        Line(key=key, path=_path([(t[0], take(t)) for t in ticks], start, top))
        for key, take in series
    )
    return Plot(
        title=title,
        value=value,
        top=f"{top:.0f}",
        lines=lines,
        words=f"{title} over the last hour; now {value}, at most {top:.0f}",
    )


def _path(points: Sequence[tuple[float, float]], start: datetime, top: float) -> str:
    parts, last = [], None
    for at, value in points:
        y = HEIGHT * (1 - value / (top * 1.08))
        is_gap = last is None or at - last > GAP_SECONDS
        step = f"M{_x(at, start):.1f} {y:.1f}" if is_gap else f"H{_x(at, start):.1f}V{y:.1f}"
        parts.append(step)
        last = at
    return "".join(parts)


def _x(at: float, start: datetime) -> float:
    return WIDTH * (at - start.timestamp()) / WINDOW.total_seconds()


def steps(found: Sequence[tuple[float, int]], seconds: float, top: float) -> str:
    """Return a line of wanted replicas over a what-if's window."""
    parts = []
    for number, (at, wanted) in enumerate(found):
        x, y = WIDTH * at / max(1.0, seconds), HEIGHT * (1 - wanted / (top * 1.08))
        parts.append(f"H{x:.1f}V{y:.1f}" if number else f"M{x:.1f} {y:.1f}")
    return "".join([*parts, f"H{WIDTH:.0f}"])
