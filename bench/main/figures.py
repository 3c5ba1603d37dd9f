"""A figure beside its target, and how they are printed: the only place that decides met or missed.

A part of the benchmark returns a `Result`; `__main__` prints it as text or collects it as JSON.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that has a target, or tells about one that has."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    """Without either, a figure is shown for its own sake."""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met, None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    def line(self) -> str:
        """Return the figure as one line of text."""
        verdict = ""
        for word, target in (("at most", self.at_most), ("at least", self.at_least)):
            if target is not None:
                met = "met" if self.is_met else "MISSED"
                verdict = f"   target: {word} {_short(target)} {self.unit}   {met}"
        return f"  {self.name:<58}{_short(self.value):>9} {self.unit:<8}{verdict}".rstrip()


@dataclass(kw_only=True)
class Result:
    """What one part of the benchmark found."""

    part: str
    question: str
    figures: list[Figure] = field(default_factory=list)
    table: list[Sequence[str]] = field(default_factory=list)
    """Rows of text, the first one the heads; what the figures were made of."""

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        self.figures.append(
            Figure(name=name, value=value, unit=unit, at_most=at_most, at_least=at_least)
        )

    def text(self) -> str:
        """Return the result for people."""
        lines = [f"{self.part}: {self.question}"]
        lines += [figure.line() for figure in self.figures]
        return "\n".join([*lines, *_columns(self.table)])

    def json(self) -> dict[str, Any]:
        """Return the result for programs."""
        figures = [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "at_most": figure.at_most,
                "at_least": figure.at_least,
                "met": figure.is_met,
            }
            for figure in self.figures
        ]
        return {"part": self.part, "figures": figures, "table": self.table}


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of `values` lie; the nearest one that occurs."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _short(value: float) -> str:
    return (
        f"{value:.0f}"
        if value == int(value)
        else f"{value:.3f}"
        if value < 1
        else f"{value:.2f}"
        if value < 100
        else f"{value:.1f}"
    )


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    if not table:
        return []
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    return [
        "    "
        + "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
