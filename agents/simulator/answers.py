"""Deterministic answers: words that look like an answer, in the exact number of tokens wanted.

The same prompt under the same seed gives the same answer. Text is plain ASCII, so that any four
characters are one token. Called once per sequence, before it is scheduled.
"""

import random
import zlib
from dataclasses import dataclass

from agents.simulator import tokens
from agents.simulator.runs import Outcome

_SUBJECTS = (
    "The model", "A short answer", "The first step", "This approach", "The second option",
    "Each request", "The main idea", "A good example", "The result", "Most of the time, it",
)  # fmt: skip
_VERBS = (
    "depends on", "comes before", "works well with", "is close to", "explains", "follows from",
    "needs", "gives", "can be compared with", "is easier than",
)  # fmt: skip
_OBJECTS = (
    "the question as it was asked", "a small and clear plan", "what was said before",
    "the data at hand", "an honest estimate", "the simplest case", "a careful reading",
    "the memory that is free", "one more look at the numbers", "the usual trade-off",
)  # fmt: skip
_SENTENCES = 509
_SHORTEST_SENTENCES, _LONGEST_SENTENCES = 2, 7


@dataclass(frozen=True)
class Answer:
    """A whole answer, known before its first token is due."""

    data: bytes
    """ASCII text, four bytes a token; the last token may be shorter."""
    ending: Outcome
    stop: str | None = None
    """The stop string that ended it."""

    @property
    def token_count(self) -> int:
        return tokens.count(self.data)

    def text(self, start: int, end: int) -> str:
        """Return the text of tokens `start` to `end`, `end` not included."""
        size = tokens.BYTES_PER_TOKEN
        return self.data[start * size : end * size].decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Length:
    """What a request says about the length of its answer."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    """Go on to `max_tokens` exactly."""
    stop: tuple[str, ...] = ()


class Author:
    """Writes answers from a seed."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self._seed = seed
        self._sentences = [
            f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}. ".encode()
            for _ in range(_SENTENCES)
        ]

    def garble(self) -> None:
        """Write nonsense from now on, as a model whose weights were lost does."""
        self._sentences = [sentence[::-1] for sentence in self._sentences]

    def write(self, prompt: bytes, length: Length, variation: int = 0) -> Answer:
        """Return the answer to `prompt`; `variation` tells the choices of one request apart."""
        mark = zlib.crc32(prompt, (self._seed + variation) & 0xFFFFFFFF)
        data = self._text(mark, length)
        ending = Outcome.STOP
        if tokens.count(data) > length.max_tokens or length.ignore_eos:
            data = data[: length.max_tokens * tokens.BYTES_PER_TOKEN]
            ending = Outcome.LENGTH
        return _cut_at_stop(Answer(data, ending), length.stop)

    def _text(self, mark: int, length: Length) -> bytes:
        at = mark % _SENTENCES
        spread = _LONGEST_SENTENCES - _SHORTEST_SENTENCES + 1
        wanted = _SHORTEST_SENTENCES + mark // _SENTENCES % spread
        least = (length.max_tokens if length.ignore_eos else length.min_tokens) * 4
        parts: list[bytes] = []
        size = 0
        while len(parts) < wanted or size < least:
            parts.append(self._sentences[(at + len(parts)) % _SENTENCES])
            size += len(parts[-1])
        text = b"".join(parts)
        return text if length.ignore_eos else text.rstrip()


def _cut_at_stop(answer: Answer, stops: tuple[str, ...]) -> Answer:
    """Return `answer` up to the first of `stops`, without it, as OpenAI's API does."""
    found = [(at, stop) for stop in stops if (at := answer.data.find(stop.encode())) >= 0]
    if not found:
        return answer
    at, stop = min(found)
    # A sequence has at least one token, even when it stops where it starts.
    return Answer(answer.data[:at] or b" ", Outcome.STOP, stop)
