"""Draws the charts of one benchmark run. Run by the interpreter of an environment with matplotlib:

    python draw.py RESULTS.json FOLDER

where RESULTS.json is what `python -m bench.gateway --json` prints. Each chart becomes
FOLDER/bench-gateway-NAME.png and .svg.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, THEIRS, TARGET = "#1f6f5c", "#b9c2c9", "#b3402a"
OFF_THE_CHART = 20
"""A program that costs so many times ours is told in words: its bar would hide the others."""


def main(results: Path, folder: Path) -> None:
    """Draw every chart that the results hold figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {part["part"]: part for part in json.loads(results.read_text())}
    mpl.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
         "svg.hashsalt": "hearth", "font.family": "DejaVu Sans"}
    )  # fmt: skip
    if "cpu" in parts:
        _cpu(parts["cpu"], folder)
    if "latency" in parts:
        _latency(parts["latency"], folder)
    if "replay" in parts and parts["replay"]["table"]:
        _replay(parts["replay"], folder)


def _cpu(part: dict, folder: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    rows = part["table"][1:]
    for axis, kind, share, title in (
        (axes[0], "plain", 0.75, "One request, 2 kB prompt"),
        (axes[1], "streamed", 0.80, "One stream of 64 chunks"),
    ):
        values = {row[0]: float(row[2]) for row in rows if row[1] == kind}
        base = values.get("vllm-router round_robin")
        most = OFF_THE_CHART * values["hearth"]
        far = "".join(f" ({name}: {value:,.0f})" for name, value in values.items() if value > most)
        near = {name: value for name, value in values.items() if value <= most}
        _bars(axis, near, share * base if base else None)
        axis.set_title(title, loc="left")
        axis.set_xlabel(f"µs of CPU{far}")
    _save(figure, folder, "cpu")


def _latency(part: dict, folder: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 2.8), layout="constrained", sharey=True)
    rows = part["table"][1:]
    for axis, place, title in zip(axes, (1, 2), ("median", "p99"), strict=True):
        values = {row[0]: float(row[place]) for row in rows}
        _bars(axis, values, values.get("vllm-router round_robin"))
        axis.set_title(f"Added to the first byte at 200 requests/s, {title}", loc="left")
        axis.set_xlabel("µs")
    _save(figure, folder, "latency")


def _replay(part: dict, folder: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained", sharey=True)
    rows = part["table"][1:]
    targets = (0.65, 8.1, 0.31)
    for axis, place, target, title in zip(
        axes, (1, 3, 4), targets, ("Mean TTFT, s", "Mean E2E, s", "Hit ratio"), strict=True
    ):
        _bars(axis, {row[0]: float(row[place]) for row in rows}, target)
        axis.set_title(title, loc="left")
    _save(figure, folder, "replay")


def _bars(axis, values: dict[str, float], target: float | None) -> None:
    names = list(values)[::-1]
    ours = ("hearth", "prefix")
    colours = [OURS if name.startswith(ours) else THEIRS for name in names]
    bars = axis.barh(names, [values[name] for name in names], color=colours, height=0.65)
    for label in axis.bar_label(bars, fmt=_short, padding=3):
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        label.set_zorder(5)
    axis.margins(x=0.15)
    if target is not None:
        axis.axvline(target, color=TARGET, linewidth=1.2, linestyle="--")
        axis.text(target, -0.5, " target", color=TARGET, fontsize=8, va="bottom")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.3g}"


def _save(figure, folder: Path, name: str) -> None:
    path = folder / f"bench-gateway-{name}"
    figure.savefig(path.with_suffix(".png"), dpi=110)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
