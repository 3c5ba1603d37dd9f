"""From ranked chunks to those that are sent: no repeats, diverse if wanted, within a budget; pure.

Every chunk that falls out keeps the reason: that is what a pinned chunk that is missing is told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

type Vector = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One ranked chunk, as far as the choice depends on it."""

    id: int
    score: float
    sha256: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The chunks to send, best first, and why the others are not among them."""

    ids: tuple[int, ...]
    left_out: Mapping[int, str]


def choose(candidates: Sequence[Candidate], *, top_k: int, token_budget: int | None) -> Chosen:
    """Return the first `top_k` candidates without repeats that fit into `token_budget` together.

    A chunk too large for what is left of the budget is passed over; a smaller one may still fit.
    The first one is taken whatever its size: an empty context answers nothing.
    """
    taken: list[int] = []
    seen: dict[str, int] = {}
    left_out: dict[int, str] = {}
    used = 0
    for one in candidates:
        if one.sha256 in seen:
            left_out[one.id] = f"the same text as chunk {seen[one.sha256]}, which ranks higher"
        elif len(taken) == top_k:
            left_out[one.id] = f"below the first {top_k}"
        elif token_budget is not None and taken and used + one.tokens > token_budget:
            left_out[one.id] = (
                f"its {one.tokens} tokens do not fit: {token_budget - used} of "
                f"{token_budget} are left"
            )
        else:
            taken.append(one.id)
            seen[one.sha256] = one.id
            used += one.tokens
    return Chosen(ids=tuple(taken), left_out=left_out)


def diversify(
    candidates: Sequence[Candidate], vectors: Mapping[int, Vector], *, balance: float, among: int
) -> list[Candidate]:
    """Return the candidates re-ordered by maximal marginal relevance (Carbonell, Goldstein 1998).

    `balance` 1.0 keeps the order, 0.0 looks at difference only; the first `among` are re-ordered.
    Candidates without a vector count as unlike every other.
    """
    pool, rest = list(candidates[:among]), list(candidates[among:])
    if not pool:
        return []
    top = max(one.score for one in pool) or 1.0
    nearest = {one.id: 0.0 for one in pool}
    ordered: list[Candidate] = []
    while pool:
        best = max(
            pool,
            key=lambda c: balance * c.score / top - (1 - balance) * nearest[c.id],
        )
        pool.remove(best)
        ordered.append(best)
        for one in pool:
            nearest[one.id] = max(nearest[one.id], _likeness(vectors, one.id, best.id))
    return ordered + rest


def why_not(
    chunk: int,
    *,
    left_out: Mapping[int, str],
    is_live: bool,
    passes: Callable[[], bool],
    depth: int,
) -> str:
    """Return the reason why a pinned chunk is not among the hits."""
    if chunk in left_out:
        return left_out[chunk]
    if not is_live:
        return "it belongs to no document of the index that answers now"
    if not passes():
        return "its document does not pass the filters"
    return f"neither leg has it among its first {depth}"


def _likeness(vectors: Mapping[int, Vector], one: int, other: int) -> float:
    a, b = vectors.get(one), vectors.get(other)
    if a is None or b is None:
        return 0.0
    return sum(x * y for x, y in zip(a, b, strict=True))
