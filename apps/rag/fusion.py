"""Two ranked lists into one, with the share of each kept; pure.

Done here and not in Milvus: its rankers differ between engines (Cranfield .388 to .417 for the same
weights), and the ranks and scores of both legs are the answer to "why this passage".
RRF: Cormack, Clarke, Büttcher 2009. Min-max: scores of a leg scaled to 0-1 within its list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where a leg put a chunk: rank from 1, and its own score."""

    rank: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Fused:
    """One chunk after fusion."""

    id: int
    score: float
    dense: Place | None
    lexical: Place | None
    dense_share: float
    """Part of `score` that came from the vectors; the rest came from the words."""


def places(found: Sequence[tuple[int, float]]) -> dict[int, Place]:
    """Return the places of a leg's hits, given best first."""
    return {chunk: Place(rank, score) for rank, (chunk, score) in enumerate(found, 1)}


def reciprocal(
    dense: Mapping[int, Place], lexical: Mapping[int, Place], *, k: int, dense_weight: float
) -> list[Fused]:
    """Return all chunks, best first, by weighted reciprocal ranks: w / (k + rank).

    Ties go to the better dense rank, then to the lower id, so that equal input is equal output.
    """
    return _merged(
        dense,
        lexical,
        {chunk: dense_weight / (k + place.rank) for chunk, place in dense.items()},
        {chunk: (1 - dense_weight) / (k + place.rank) for chunk, place in lexical.items()},
    )


def min_max(
    dense: Mapping[int, Place], lexical: Mapping[int, Place], *, dense_weight: float
) -> list[Fused]:
    """Return all chunks, best first, by weighted scores scaled to 0-1 within each leg."""
    return _merged(dense, lexical, _scaled(dense, dense_weight), _scaled(lexical, 1 - dense_weight))


def _scaled(leg: Mapping[int, Place], weight: float) -> dict[int, float]:
    if not leg:
        return {}
    scores = [place.score for place in leg.values()]
    low, span = min(scores), max(scores) - min(scores)
    return {
        chunk: weight * ((place.score - low) / span if span else 1.0)
        for chunk, place in leg.items()
    }


def _merged(
    dense: Mapping[int, Place],
    lexical: Mapping[int, Place],
    dense_parts: Mapping[int, float],
    lexical_parts: Mapping[int, float],
) -> list[Fused]:
    merged = [
        Fused(
            id=chunk,
            score=dense_parts.get(chunk, 0.0) + lexical_parts.get(chunk, 0.0),
            dense=dense.get(chunk),
            lexical=lexical.get(chunk),
            dense_share=_share(dense_parts.get(chunk, 0.0), lexical_parts.get(chunk, 0.0)),
        )
        for chunk in {**dense, **lexical}
    ]
    last = len(merged) + 1
    return sorted(merged, key=lambda f: (-f.score, f.dense.rank if f.dense else last, f.id))


def _share(dense: float, lexical: float) -> float:
    return dense / (dense + lexical) if dense + lexical else 0.0
