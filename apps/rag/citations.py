"""Numbers in an answer against the passages that were sent; pure."""

import re
from collections.abc import Collection
from dataclasses import dataclass

_CITED = re.compile(r"\[(\d{1,3}(?:\s*[,;\u2013-]\s*\d{1,3})*)\]")
ABSTAINED = "the sources do not say"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What an answer cites."""

    cited: tuple[int, ...]
    """Numbers that were sent, in the order of their first use."""
    unknown: tuple[int, ...]
    """Numbers that were not: the model made them up."""
    abstained: bool
    """The answer says that the sources hold none."""


def check(answer: str, sent: Collection[int]) -> Checked:
    """Return which passages `answer` cites, and which of its numbers mean nothing."""
    numbers: dict[int, None] = {}
    for match in _CITED.finditer(answer):
        for text in re.findall(r"\d+", match[1]):
            numbers.setdefault(int(text))
    return Checked(
        cited=tuple(number for number in numbers if number in sent),
        unknown=tuple(number for number in numbers if number not in sent),
        abstained=ABSTAINED in answer.lower(),
    )
