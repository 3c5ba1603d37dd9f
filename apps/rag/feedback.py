"""What the best passages have, added to the question: their words, their vectors; pure.

Pseudo-relevance feedback in the manner of RM3 (Abdul-Jaleel et al. 2004): a word counts by how
often the first passages use it, the better ones more, and by how few of the candidates do. The
question's own words are repeated, so that what is added never outweighs what was asked.
"""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence

FIRST = 5
"""Passages that are taken for relevant."""
_REPEATS = 3
_MEAN_WEIGHT = 0.5
"""Of the passages' mean beside the question; 0.3 and 0.5 measure alike on Cranfield's odd half."""


def expanded(question: Sequence[str], passages: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return the stems of `question` with up to `count` more from `passages`, best passages first.

    `passages` are stems; the first FIRST are taken for relevant, all of them tell how common a word
    is. A word must occur in two of the first ones.
    """
    known = set(question)
    spread = Counter(stem for passage in passages for stem in set(passage))
    first = passages[:FIRST]
    shared = Counter(stem for passage in first for stem in set(passage))
    weights: defaultdict[str, float] = defaultdict(float)
    for rank, passage in enumerate(first, 1):
        counts = Counter(passage)
        for stem, times in counts.items():
            if stem in known or shared[stem] < min(2, len(first)) or len(stem) < 3:
                continue
            rare = math.log(1 + len(passages) / spread[stem])
            weights[stem] += times / len(passage) / rank * rare
    best = sorted(weights, key=lambda stem: (-weights[stem], stem))[:count]
    return [*(list(question) * _REPEATS), *best]


def moved(question: Sequence[float], passages: Sequence[Sequence[float]]) -> array[float]:
    """Return `question` moved towards the mean of `passages`, as long as 1 (Rocchio 1971).

    All are (dim,) and as long as 1; without passages the question stays where it is.
    """
    share = _MEAN_WEIGHT / max(1, len(passages))
    added = [
        value + share * sum(column) for value, *column in zip(question, *passages, strict=True)
    ]
    length = math.hypot(*added) or 1.0
    return array("f", [value / length for value in added])
