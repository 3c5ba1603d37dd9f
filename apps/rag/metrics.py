"""Figures of a ranking against judgements, and whether one way is better than another; pure.

nDCG as trec_eval: gain = grade, discount = log2(rank + 1), ideal over all judged documents.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CUT = 10
RESAMPLES = 2000
"""Of the bootstrap; 95 % intervals are stable to about .002 with it."""
_SEED = 11
"""Fixed, so that the same measurement prints the same interval."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One question's figures, each 0-1."""

    ndcg: float
    reciprocal_rank: float
    recall: float
    """Of the relevant documents, in the first 100."""
    precision: float
    """Of the first ten."""
    unjudged: float
    """Share of the first ten that nobody judged; they count as not relevant."""


def figures(ranking: Sequence[str], grades: Mapping[str, int]) -> Figures:
    """Return the figures of `ranking` (documents, best first, once each).

    `grades` maps judged documents to 0 (not relevant) or more.
    """
    first = ranking[:CUT]
    gains = [max(0, grades.get(name, 0)) for name in first]
    ideal = sorted((max(0, grade) for grade in grades.values()), reverse=True)[:CUT]
    best = _discounted(ideal)
    relevant = {name for name, grade in grades.items() if grade > 0}
    hits = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    return Figures(
        ndcg=_discounted(gains) / best if best else 0.0,
        reciprocal_rank=1 / hits[0] if hits else 0.0,
        recall=len(relevant.intersection(ranking[:100])) / len(relevant) if relevant else 0.0,
        precision=len(hits) / CUT,
        unjudged=sum(name not in grades for name in first) / max(1, len(first)),
    )


def mean(rows: Sequence[Figures]) -> dict[str, float]:
    """Return the mean of each figure."""
    count = max(1, len(rows))
    return {
        "ndcg_at_10": sum(row.ndcg for row in rows) / count,
        "mrr_at_10": sum(row.reciprocal_rank for row in rows) / count,
        "recall_at_100": sum(row.recall for row in rows) / count,
        "precision_at_10": sum(row.precision for row in rows) / count,
        "unjudged_at_10": sum(row.unjudged for row in rows) / count,
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of `values`, one a question."""
    if not values:
        return 0.0, 0.0
    dice = random.Random(_SEED)
    count = len(values)
    means = sorted(sum(dice.choices(values, k=count)) / count for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One way against another on the same questions, by nDCG@10."""

    wins: int
    losses: int
    ties: int
    difference: float
    low: float
    high: float
    """95 % paired bootstrap interval of `difference`; without 0 in it, one is better."""


def compare(values: Sequence[float], others: Sequence[float]) -> Comparison:
    """Return how `values` do against `others`, question by question."""
    gaps = [value - other for value, other in zip(values, others, strict=True)]
    low, high = interval(gaps)
    return Comparison(
        wins=sum(gap > 1e-9 for gap in gaps),
        losses=sum(gap < -1e-9 for gap in gaps),
        ties=sum(abs(gap) <= 1e-9 for gap in gaps),
        difference=sum(gaps) / max(1, len(gaps)),
        low=low,
        high=high,
    )


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
