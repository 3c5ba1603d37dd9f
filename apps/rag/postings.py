"""BM25 over one segment of Milvus Lite, with arrays where its own is lists of tuples.

The same formula, numbers and interface as `milvus_lite.index.sparse_inverted`, whose search of
10,000 chunks costs 0.1 s of Python and whose building costs seconds. Used through `steady`.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from milvus_lite.index.sparse_common import empty_results, validate_mask
from milvus_lite.index.sparse_inverted import SparseInvertedIndex
from numpy.typing import NDArray

type Mask = NDArray[np.bool_]


class Postings(SparseInvertedIndex):  # type: ignore[misc]  # Milvus Lite ships no types
    """Rows sorted by term: `_rows[_starts[t]:_starts[t + 1]]` hold term `_terms[t]`."""

    def __init__(self, k1: float = 1.5, b: float = 0.75) -> None:
        super().__init__(k1=k1, b=b)
        self._terms: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._starts: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._rows: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._weights: NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def build(
        self, sparse_vectors: Sequence[Mapping[int, float]], valid_mask: Mask | None = None
    ) -> None:
        """Take in one mapping of term to count for each row; rows not in the mask are left out."""
        mask = validate_mask(valid_mask, len(sparse_vectors))
        kept = [v if mask is None or mask[at] else {} for at, v in enumerate(sparse_vectors)]
        sizes = np.fromiter(map(len, kept), dtype=np.int64, count=len(kept))
        total = int(sizes.sum())
        terms = np.fromiter(chain.from_iterable(kept), dtype=np.int64, count=total)
        counts = np.fromiter(
            chain.from_iterable(v.values() for v in kept), dtype=np.float32, count=total
        )
        rows = np.repeat(np.arange(len(kept), dtype=np.int32), sizes)
        lengths = np.bincount(rows, weights=counts, minlength=len(kept)).astype(np.float32)
        self.doc_count = len(kept) if mask is None else int(mask.sum())
        self.avgdl = float(lengths.sum()) / self.doc_count if self.doc_count else 0.0
        self._doc_lengths = lengths
        order = np.argsort(terms, kind="stable")
        self._terms, first = np.unique(terms[order], return_index=True)
        self._starts = np.append(first, total)
        self._rows, self._weights = rows[order], self._saturated(counts, lengths[rows])[order]

    def _saturated(
        self, counts: NDArray[np.float32], lengths: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return what BM25 makes of counts in rows of these lengths, but for the term's rarity."""
        norm = self.k1 * (1.0 - self.b + self.b * lengths / (self.avgdl or 1.0))
        found: NDArray[np.float32] = counts * (self.k1 + 1.0) / (counts + norm)
        return found.astype(np.float32, copy=False)

    def search(
        self,
        query_sparse_vectors: Sequence[Mapping[int, float]],
        top_k: int,
        valid_mask: Mask | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows and negated scores, (queries, top_k), best first, padded with -1 and inf."""
        mask = validate_mask(valid_mask, len(self._doc_lengths))
        ids, distances = empty_results(len(query_sparse_vectors), top_k)
        for at, query in enumerate(query_sparse_vectors):
            scores = self._scores(query)
            if mask is not None:
                scores[~mask] = 0.0
            found = np.flatnonzero(scores > 0.0)
            if len(found) > top_k:
                found = found[np.argpartition(-scores[found], top_k - 1)[:top_k]]
            found = found[np.lexsort((found, -scores[found]))]
            ids[at, : len(found)] = found
            distances[at, : len(found)] = -scores[found]
        return ids, distances

    def _scores(self, query: Mapping[int, float]) -> NDArray[np.float64]:
        scores = np.zeros(len(self._doc_lengths))
        for term, weight in query.items():
            at = int(np.searchsorted(self._terms, term))
            if at == len(self._terms) or self._terms[at] != term:
                continue
            held = slice(int(self._starts[at]), int(self._starts[at + 1]))
            frequency = held.stop - held.start
            rarity = np.log((self.doc_count - frequency + 0.5) / (frequency + 0.5) + 1.0)
            # A row holds a term once, so no index is there twice.
            scores[self._rows[held]] += rarity * weight * self._weights[held]
        return scores

    def save(self, path: str) -> None:
        """Refuse: Milvus Lite keeps these in memory alone."""
        raise NotImplementedError(path)

    @classmethod
    def load(cls, path: str, k1: float = 1.5, b: float = 0.75) -> Any:  # noqa: ANN401
        """Refuse, as `save`."""
        raise NotImplementedError(path)
