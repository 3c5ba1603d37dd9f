"""How one retrieval is done: the settings that a profile version freezes; pure."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]


class Retrieval(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a retrieval; the defaults are those that measured best (docs/rag.md)."""

    mode: Literal["hybrid", "dense", "lexical"] = "hybrid"
    top_k: Annotated[int, Meta(ge=1, le=100)] = 5
    candidates: Annotated[int, Meta(ge=1, le=500)] = 100
    """Hits asked of each leg."""
    fusion: Literal["rrf", "min-max"] = "rrf"
    rrf_k: Annotated[int, Meta(ge=1, le=1000)] = 60
    dense_weight: Ratio = 0.5
    """Share of the vectors in the fused score; the words have the rest."""
    feedback_words: Annotated[int, Meta(ge=0, le=50)] = 0
    """Words added to the question from its best passages (pseudo-relevance feedback)."""
    feedback_vectors: Annotated[int, Meta(ge=0, le=20)] = 0
    """Best passages whose mean vector is added to the question's (Rocchio)."""
    mmr: Ratio | None = None
    """Balance of maximal marginal relevance: 1 relevance only; None: off."""
    rerank_deployment: str = ""
    rerank_candidates: Annotated[int, Meta(ge=1, le=100)] = 20
    token_budget: Annotated[int, Meta(ge=50, le=200_000)] | None = None
    """Most tokens of all passages together."""


DEFAULTS = Retrieval()
DEFAULTS_NAME = "default"


def settings_of(stored: object) -> Retrieval:
    """Return settings as they were stored; members of a later version are left out."""
    return msgspec.convert(stored, Retrieval)
