"""The reads of Milvus Lite that Hearth makes, over arrays: the nearest ids, ids that pass a filter.

Both give what Milvus Lite's own way gives, but for BM25, which ranks all parts as one (`postings`).
That way reads every column of every hit and loops over all rows in Python: 35 ms a leg and 10,000
chunks. Anything else that is asked goes that way (`is_plain`). Called by `steady`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from milvus_lite.engine.collection import Collection
from milvus_lite.schema.types import DataType
from numpy.typing import NDArray

from apps.rag import holdings
from apps.rag.holdings import Holdings, Mask, Masks, Part

type Scored = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Ids and scores, best first."""

_NOT_PLAIN = (
    *("partition_names", "group_by_field", "radius", "range_filter", "offset", "ranker"),
    *("timezone", "order_by_pk"),
)
METRICS = ("COSINE", "BM25")


def is_plain(collection: Collection, asked: Mapping[str, Any]) -> bool:
    """Return whether these can answer a read: integers as ids, nothing but a filter and a limit."""
    primary = next(field for field in collection.schema.fields if field.is_primary)
    return primary.dtype == DataType.INT64 and not any(asked.get(name) for name in _NOT_PLAIN)


def nearest(
    collection: Collection,
    queries: Sequence[Any],
    *,
    name: str,
    limit: int,
    expression: str | None,
    params: Mapping[str, Any],
) -> list[list[dict[str, Any]]]:
    """Return the best `limit` hits for each query in the field `name`, as `Collection.search` does.

    Queries are vectors, ranked by cosine, or texts where the field is one that BM25 makes; its
    scores are negative, as there.
    """
    held = _narrowed(collection, expression)
    if name in collection._bm25_analyzers:
        words = collection._prepare_sparse_queries(list(queries), name)
        spec = collection._index_specs.get(name)
        tuned = spec.build_params if spec else {}
        k1, b = float(tuned.get("bm25_k1", 1.5)), float(tuned.get("bm25_b", 0.75))
        found = [_by_words(held, name, query, limit, k1, b) for query in words]
        return [_hits(ids, -scores) for ids, scores in found]
    vectors = np.asarray(queries, dtype=np.float32)
    found = [_by_vector(held, name, vector, limit, params) for vector in vectors]
    return [_hits(ids, np.minimum(scores, 1.0)) for ids, scores in found]


def passing(collection: Collection, expression: str | None) -> NDArray[np.int64]:
    """Return the ids of all rows that pass the filter."""
    held = _narrowed(collection, expression)
    found = [
        part.ids if mask is None else part.ids[mask]
        for part, mask in zip(held.parts, held.live, strict=True)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def warm(collection: Collection) -> None:
    """Make what searches will use of the segments, so that the first of them finds it."""
    for part in holdings.flushed_parts(collection):
        if collection._vector_name:
            part.vectors(collection._vector_name)
        for name in collection._bm25_analyzers:
            part.postings(name)


def _narrowed(collection: Collection, expression: str | None) -> Holdings:
    """Return what the collection holds, of it only the rows that pass the filter."""
    held = holdings.of(collection)
    if not expression:
        return held
    compiled = collection._compile_filter(expression)
    masks: Masks = [
        part.passing(compiled) if live is None else live & part.passing(compiled)
        for part, live in zip(held.parts, held.live, strict=True)
    ]
    return replace(held, live=masks)


def _by_words(
    held: Holdings,
    name: str,
    query: Mapping[int, float],
    limit: int,
    k1: float,
    b: float,
) -> Scored:
    corpus = held.corpus(name)
    weights = corpus.weights(query)
    found = []
    for part, mask in zip(held.parts, held.live, strict=True):
        scores = part.postings(name).scores(weights, corpus.mean_length, k1=k1, b=b)
        matching = scores > 0 if mask is None else (scores > 0) & mask
        found.append(_best(part, scores, matching, limit))
    return _merged(found, limit)


def _by_vector(
    held: Holdings,
    name: str,
    vector: NDArray[np.float32],
    limit: int,
    params: Mapping[str, Any],
) -> Scored:
    query = vector / (float(np.linalg.norm(vector)) or 1.0)
    found = []
    for part, mask in zip(held.parts, held.live, strict=True):
        graph = part.segment.indexes.get(name) if part.segment is not None else None
        if graph is not None and mask is None:
            rows, distances = graph.search(query, limit, params=dict(params))
            is_there = rows[0] >= 0
            found.append((part.ids[rows[0][is_there]], 1.0 - distances[0][is_there].astype("f8")))
            continue
        matrix, inverse = part.vectors(name)
        found.append(_best(part, (matrix @ query) * inverse, mask, limit))
    return _merged(found, limit)


def _best(part: Part, scores: NDArray[Any], mask: Mask | None, limit: int) -> Scored:
    rows = np.arange(len(part)) if mask is None else np.flatnonzero(mask)
    if len(rows) > limit:
        rows = rows[np.argpartition(-scores[rows], limit - 1)[:limit]]
    return part.ids[rows], scores[rows].astype(np.float64)


def _merged(found: Sequence[Scored], limit: int) -> Scored:
    """Return the best of all; equal scores in the order of their ids."""
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0)
    ids = np.concatenate([ids for ids, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    order = np.lexsort((ids, -scores))[:limit]
    return ids[order], scores[order]


def _hits(ids: NDArray[np.int64], scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    return [
        {"id": row, "distance": score, "entity": {}}
        for row, score in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
