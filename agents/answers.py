"""Whether a model's first answers make sense: what was seen, and the verdict.

An engine can be healthy, fast and wrong: vLLM accepts KV-cache types on CPU whose answers are
nonsense. Before a replica takes traffic the agent asks it a short fixed text
(`agents.engines.vllm_answers`), and this module decides. Pure. Perplexity is exp of the mean
negative log-probability a token: 1 means sure, the size of the vocabulary means guessing.
"""

import math

from agents.message import Message

MOST_PERPLEXITY = 1000.0
"""Of any model on plain English. Measured: SmolLM2 135M, the smallest in the catalog, has 8.7; with
a KV-cache type that lies 19,397. A guess over SmolLM2's vocabulary would have 49,152."""
MOST_WORSE_RATIO = 2.0
"""How much worse than the live revision; 4-bit weights by plain rounding cost up to 1.5 here."""
MOST_DISAGREEMENT_RATIO = 3.0
"""Between the log-probabilities of tokens as they were made and as they are read back."""


class Answers(Message, frozen=True, kw_only=True):
    """What the first answers showed; None where the engine does not tell."""

    perplexity: float | None = None
    """Of the fixed text."""
    written_perplexity: float | None = None
    """Of the tokens that it wrote itself, as it was sure of them while writing."""
    read_perplexity: float | None = None
    """Of the same tokens when they come back as a prompt."""
    likeness_ratio: float | None = None
    """Vectors and scores: how far what belongs together is ahead of what does not; 0 is not."""
    words: str = ""
    """Beginning of what it wrote."""
    seconds: float = 0.0


class AnswersBaseline(Message, frozen=True, kw_only=True):
    """What the live revision showed."""

    revision: int
    perplexity: float


def trouble(seen: Answers, baseline: AnswersBaseline | None) -> str:
    """Return why these answers must not be served, one sentence; empty if they may."""
    if seen.perplexity is not None and not seen.perplexity <= MOST_PERPLEXITY:
        return _sentence(
            f"perplexity {_number(seen.perplexity)} on a plain English text, where a model that "
            f"works has less than {MOST_PERPLEXITY:.0f}",
            seen,
        )
    if baseline is not None and seen.perplexity is not None:
        most = baseline.perplexity * MOST_WORSE_RATIO
        if seen.perplexity > most:
            return _sentence(
                f"perplexity {_number(seen.perplexity)} on a plain English text, where revision "
                f"{baseline.revision}, which serves, has {_number(baseline.perplexity)}",
                seen,
            )
    if seen.written_perplexity is not None and seen.read_perplexity is not None:
        ratio = seen.read_perplexity / max(seen.written_perplexity, 1e-9)
        if not 1 / MOST_DISAGREEMENT_RATIO <= ratio <= MOST_DISAGREEMENT_RATIO:
            return _sentence(
                f"it wrote with perplexity {_number(seen.written_perplexity)} what it reads back "
                f"with {_number(seen.read_perplexity)}",
                seen,
            )
    if seen.likeness_ratio is not None and not seen.likeness_ratio > 0:
        return "texts that belong together are no nearer to each other than others"
    return ""


def _sentence(found: str, seen: Answers) -> str:
    wrote = f"; it wrote {seen.words!r}" if seen.words else ""
    return f"the answers make no sense: {found}{wrote}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if math.isfinite(value) else "that is no number"
