"""What of a prompt the engine could reuse, and what stood in the way; pure.

Engines reuse whole blocks of tokens from the start of a prompt, as long as every token before is
the same (vLLM, "Automatic Prefix Caching"). `predicted` is what the conversation allows; what the
engine reports may be less (evicted, another replica) or more (somebody else asked the same).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of a prompt."""

    name: str
    """`instructions`, `history`, `new passages` or `question`."""
    tokens: int
    known: int
    """Tokens of it that the engine computed before."""


@dataclass(frozen=True, kw_only=True)
class View:
    """The prefix view of one request."""

    segments: tuple[Segment, ...]
    prompt_tokens: int
    predicted_tokens: int
    broke: str
    """What was different from the request before; empty in a first turn."""


def view(
    tokens: Sequence[int],
    *,
    ends: Sequence[tuple[str, int]],
    before: Sequence[int],
    block_tokens: int,
    first: bool,
) -> View:
    """Return what of the prompt `tokens` is known, given the last prompt with its answer.

    `ends` are the segments' names and where each ends; `before` is empty when nothing was asked
    yet in this conversation (`first`).
    """
    same = common(tokens, before)
    # The last token of a prompt is always computed: the engine needs its output.
    usable = min(same, max(0, len(tokens) - 1))
    predicted = usable - usable % block_tokens
    segments, start = [], 0
    for name, end in ends:
        known = max(0, min(end, predicted) - start)
        segments.append(Segment(name=name, tokens=end - start, known=known))
        start = end
    return View(
        segments=tuple(segments),
        prompt_tokens=len(tokens),
        predicted_tokens=predicted,
        broke="" if first else _broke(same, len(before), ends),
    )


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def _broke(same: int, before: int, ends: Sequence[tuple[str, int]]) -> str:
    if same >= before:
        return "nothing: the prompt only grew"
    for name, end in ends:
        if same < end:
            return f"the {name} differ from token {same + 1} on"
    return f"the prompt ends at token {same}, before the last one did"
