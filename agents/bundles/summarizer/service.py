"""A Bento: the sentences of a text that say most, by the words they share with the rest.

Runs on any CPU, needs no weights. Served by BentoML in an environment of its own.
"""

import re
from collections import Counter

import bentoml

LONGEST_TEXT = 200_000
MOST_SENTENCES = 50


@bentoml.service(name="summarizer", traffic={"timeout": 30, "concurrency": 8})
class Summarizer:
    """Picks sentences, in their order."""

    @bentoml.api
    def summarize(self, text: str, sentences: int = 2) -> dict[str, object]:
        """Return the `sentences` that say most of `text`, and how many it has."""
        found = re.split(r"(?<=[.!?])\s+", text[:LONGEST_TEXT].strip())
        weights = Counter(word for word in _words(text[:LONGEST_TEXT]) if len(word) > 3)
        scores = [_score(sentence, weights) for sentence in found]
        wanted = max(1, min(sentences, MOST_SENTENCES))
        best = sorted(range(len(found)), key=lambda n: (-scores[n], n))[:wanted]
        return {"summary": " ".join(found[n] for n in sorted(best)), "sentences": len(found)}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _score(sentence: str, weights: Counter[str]) -> float:
    words = _words(sentence)
    return sum(weights[word] for word in words) / (len(words) + 5)
