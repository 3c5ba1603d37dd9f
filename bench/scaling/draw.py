"""Charts of the scaling benchmark as SVG, drawn by hand: no library is needed for two lines."""

import math
from collections.abc import Sequence
from pathlib import Path

from bench.autoscale import replay
from bench.scaling.cases import Case

WIDTH, HEIGHT, LEFT, TOP, PLOT = 920, 300, 52, 46, 210
SHOWN = (
    ("knative", "Knative KPA", "#c2410c"),
    ("hpa", "Kubernetes HPA", "#a16207"),
    ("hearth", "Hearth", "#0f766e"),
)
DEMAND = "#94a3b8"
INK, LINE = "#64748b", "#64748b40"


def charts(cases: Sequence[Case], folder: Path) -> None:
    """Write one chart a case: what was offered, and how many replicas each policy wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        requests = case.load(1, "whole")
        seconds = requests[-1][0] + 1
        lines = []
        for policy, label, colour in SHOWN:
            run = replay(requests, policy, case.world, seconds=seconds, keep_ticks=True)
            lines.append((label, colour, [(t[0], float(t[4])) for t in run.ticks]))
        offered = _offered(requests, seconds, case.world.slots)
        lines.insert(0, ("offered ÷ slots", DEMAND, offered))
        (folder / f"scaling-{case.key}.svg").write_text(_svg(case.title, lines, seconds))


def _offered(
    requests: Sequence[tuple[float, float, float]], seconds: float, slots: int
) -> list[tuple[float, float]]:
    """Return the replicas that unlimited capacity would have kept busy, every ten seconds."""
    step = 10.0
    sums = [0.0] * (int(seconds / step) + 2)
    for at, _, service in requests:
        sums[int(at / step)] += service
    return [(n * step, busy / step / slots) for n, busy in enumerate(sums[:-1])]


def _svg(
    title: str, lines: Sequence[tuple[str, str, list[tuple[float, float]]]], seconds: float
) -> str:
    most = max(value for _, _, points in lines[1:] for _, value in points)
    # A multiple of the four marks: each is a whole number of replicas.
    cap = 4.0 * math.ceil(most / 4)
    wide = WIDTH - LEFT - 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{title}: replicas wanted over time</title>",
        f'<text x="{LEFT}" y="18" fill="{INK}" font-weight="600">{title}: replicas wanted</text>',
    ]
    for mark in range(5):
        y = TOP + PLOT * mark / 4
        value = cap * (1 - mark / 4)
        parts.append(
            f'<path d="M{LEFT} {y:.0f}H{LEFT + wide}" stroke="{LINE}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.0f}" fill="{INK}" text-anchor="end">'
            f"{value:.0f}</text>"
        )
    for number, (label, colour, points) in enumerate(lines):
        x = LEFT + 160 * number
        parts.append(
            f'<rect x="{x}" y="28" width="18" height="3" fill="{colour}"/>'
            f'<text x="{x + 24}" y="33" fill="{INK}">{label}</text>'
            f'<path d="{_path(points, seconds, cap, wide)}" fill="none" stroke="{colour}" '
            f'stroke-width="1.6"/>'
        )
    for mark in range(5):
        at = seconds * mark / 4
        word = f"{at / 3600:.0f} h" if seconds > 7200 else f"{at / 60:.0f} min"
        parts.append(
            f'<text x="{LEFT + wide * mark / 4:.0f}" y="{TOP + PLOT + 20}" fill="{INK}" '
            f'text-anchor="middle">{word}</text>'
        )
    return "".join([*parts, "</svg>\n"])


def _path(points: list[tuple[float, float]], seconds: float, cap: float, wide: float) -> str:
    """Return the line, with at most two points a pixel."""
    kept = points[:: max(1, len(points) // (2 * int(wide)))]
    where = (
        (LEFT + wide * at / seconds, TOP + PLOT * (1 - min(1.0, value / cap))) for at, value in kept
    )
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in where)
