"""Text that is like English in how often its words come, of words that are not."""

import itertools
import random


class Words:
    """A vocabulary with Zipf's frequencies."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        letters = "abcdefghiklmnoprstuvw"
        lengths = [self._dice.randint(3, 10) for _ in range(20_000)]
        self._words = ["".join(self._dice.choices(letters, k=length)) for length in lengths]
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, 20_001)))

    def text(self, count: int) -> str:
        """Return `count` words."""
        return " ".join(self._dice.choices(self._words, cum_weights=self._weights, k=count))
