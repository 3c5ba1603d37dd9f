"""A start as bars on one time scale, beside the median of its model and host. Pure geometry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.deployments.models import Start
from apps.deployments.starts import STAGES

_HUES = {
    "image": "c5", "engine": "c5", "weights": "c6", "import": "c4", "load": "c1", "compile": "c2",
    "graphs": "c3", "warm-up": "c4", "wake": "c1", "first token": "c2", "check": "c3",
    "other": "cl",
}  # fmt: skip
_WORDS = {
    "image": "Image pulled", "engine": "Engine brought", "weights": "Weights fetched",
    "import": "Python imports", "load": "Weights loaded", "compile": "Compiled",
    "graphs": "Graphs captured", "warm-up": "Warmed up", "wake": "Woken",
    "first token": "First token", "check": "Answers checked",
    "other": "Between them",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One stage: place and width in percent of the common scale, and the median's width."""

    stage: str
    word: str
    hue: str
    seconds: float
    median_seconds: float | None
    bytes: int | None
    x: float
    width: float
    median_width: float

    @property
    def times_median(self) -> float | None:
        """Return how many times the median it took; None where that says nothing."""
        if not self.median_seconds or self.median_seconds < 0.05:
            return None
        return self.seconds / self.median_seconds


@dataclass(frozen=True, kw_only=True)
class Waterfall:
    start: Start
    bars: tuple[Bar, ...]
    median_seconds: float | None
    """Of the whole start."""


def draw(starts: Sequence[Start], medians: Mapping[Any, Mapping[str, float]]) -> list[Waterfall]:
    """Return `starts` as bars; `medians` by (model, host, rung). All share one scale."""
    longest = max((start.seconds for start in starts), default=0.0) or 1.0
    return [
        _one(start, medians.get((start.model, start.host, start.rung), {}), longest)
        for start in starts
    ]


def _one(start: Start, usual: Mapping[str, float], longest: float) -> Waterfall:
    bars: list[Bar] = []
    at = 0.0
    for stage in start.stages:
        seconds, name = float(stage["seconds"]), str(stage["stage"])
        median = usual.get(name)
        bars.append(
            Bar(
                stage=name,
                word=_WORDS.get(name, name),
                hue=_HUES.get(name, "cl"),
                seconds=seconds,
                median_seconds=median,
                bytes=stage.get("bytes"),
                x=round(100 * at / longest, 3),
                width=round(100 * seconds / longest, 3),
                median_width=round(min(100.0, 100 * (median or 0.0) / longest), 3),
            )
        )
        at += seconds
    whole = sum(usual.get(name, 0.0) for name in STAGES)
    return Waterfall(start=start, bars=tuple(bars), median_seconds=whole or None)
