"""BM25 over rows that never change, with arrays where Milvus Lite's own has lists of tuples.

The same formula and numbers as `milvus_lite.index.sparse_inverted`, whose search of 10,000 chunks
costs 0.1 s of Python and whose building costs seconds. How rare a term is and how long rows are on
average is taken over all parts of a collection (`Corpus`), so that a passage has one score whatever
part it lies in; Milvus Lite ranks each part by itself. Used by `holdings`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_PAIR = np.dtype([("term", "<u4"), ("count", "<f4")])


class Postings:
    """Rows sorted by term: `_rows[_starts[t]:_starts[t + 1]]` hold term `_terms[t]`."""

    def __init__(self, packed: pa.BinaryArray) -> None:
        """Take in one row of (uint32 term, float32 count) pairs for each value of `packed`."""
        sizes, pairs = _pairs(packed)
        rows = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        order = np.argsort(pairs["term"])
        self._terms, first = np.unique(pairs["term"][order], return_index=True)
        self._starts = np.append(first, len(pairs))
        self._rows, self._counts = rows[order], pairs["count"][order]
        self.lengths: NDArray[np.float64] = np.bincount(
            rows, weights=pairs["count"], minlength=len(sizes)
        )

    def frequency(self, term: int) -> int:
        """Return how many rows hold `term`."""
        held = self._held(term)
        return int(held.stop - held.start)

    def scores(
        self, weights: Mapping[int, float], mean_length: float, *, k1: float, b: float
    ) -> NDArray[np.float64]:
        """Return the score of each row; `weights` are those of `Corpus.weights`."""
        scores = np.zeros(len(self.lengths))
        norm = k1 * (1.0 - b + b * self.lengths / mean_length)
        for term, weight in weights.items():
            held = self._held(term)
            rows, counts = self._rows[held], self._counts[held]
            # A row holds a term once, so no index is there twice.
            scores[rows] += weight * (k1 + 1.0) * counts / (counts + norm[rows])
        return scores

    def _held(self, term: int) -> slice:
        at = int(np.searchsorted(self._terms, term))
        if at == len(self._terms) or self._terms[at] != term:
            return slice(0, 0)
        return slice(int(self._starts[at]), int(self._starts[at + 1]))


class Corpus:
    """All parts together: how many rows, how long they are, how rare a term is."""

    def __init__(self, parts: Sequence[Postings]) -> None:
        self._parts = parts
        self._rows = sum(len(part.lengths) for part in parts)
        total = sum(float(part.lengths.sum()) for part in parts)
        self.mean_length = total / self._rows if total else 1.0

    def weights(self, query: Mapping[int, float]) -> dict[int, float]:
        """Return what each term of the query counts: its weight times how rare it is."""
        return {term: weight * self._rarity(term) for term, weight in query.items()}

    def _rarity(self, term: int) -> float:
        frequency = sum(part.frequency(term) for part in self._parts)
        return float(np.log((self._rows - frequency + 0.5) / (frequency + 0.5) + 1.0))


def _pairs(packed: pa.BinaryArray) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """Return how many pairs each row has, (rows,), and all pairs one after the other."""
    _, offsets, data = packed.buffers()
    if not len(packed) or data is None:
        return np.zeros(len(packed), dtype=np.int64), np.empty(0, dtype=_PAIR)
    ends = np.frombuffer(offsets, dtype=np.int32)[packed.offset : packed.offset + len(packed) + 1]
    sizes = np.diff(ends).astype(np.int64) // _PAIR.itemsize
    return sizes, np.frombuffer(data, _PAIR, count=int(sizes.sum()), offset=int(ends[0]))
