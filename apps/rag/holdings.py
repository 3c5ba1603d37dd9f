"""What a collection of Milvus Lite holds right now, as arrays that a search can use at once.

A `Part` is rows that never change: one segment, or one batch that is not flushed. Later rows
replace and delete earlier ones, so beside each part is a mask of the rows that still count. Milvus
Lite finds that out anew in every search, row by row, in Python: half a microsecond a row and leg.
Here it is kept until a segment, a batch or a deletion comes or goes. Used by `shortcuts`.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from milvus_lite.engine.collection import Collection
from milvus_lite.search.filter import evaluate_mask
from milvus_lite.storage.delta_index import DeltaIndex
from milvus_lite.storage.segment import Segment
from numpy.typing import NDArray

from apps.rag.postings import Corpus, Postings

type Mask = NDArray[np.bool_]
type Masks = list[Mask | None]
"""One for each part; None: all its rows."""

FILTERS_KEPT = 8
"""Answers to the last filters that are kept with a part: a byte a row each."""


class Part:
    """Rows that never change, with what searches make of them. Threads may share it."""

    def __init__(self, table: pa.Table, primary: str, segment: Segment | None = None) -> None:
        self._table, self.segment = table, segment
        self.ids: NDArray[np.int64] = table.column(primary).to_numpy()
        self.sequence: NDArray[np.int64] = table.column("_seq").to_numpy().astype(np.int64)
        self._lock = threading.Lock()
        self._vectors: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._postings: dict[str, Postings] = {}
        self._passing: dict[str, Mask] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the vectors, (rows, dim), and 1 / length of each, 0 for one of zeros: (rows,)."""
        with self._lock:
            if name not in self._vectors:
                rows = (
                    self.segment.vector_data(name)[0]
                    if self.segment is not None
                    else _matrix(self._table.column(name))
                )
                lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
                inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
                self._vectors[name] = rows, inverse
            return self._vectors[name]

    def postings(self, name: str) -> Postings:
        """Return the words' index of a field of packed pairs."""
        with self._lock:
            if name not in self._postings:
                self._postings[name] = Postings(_joined(self._table.column(name)))
            return self._postings[name]

    def passing(self, compiled: Any) -> Mask:  # noqa: ANN401 - Milvus Lite's compiled filter
        """Return which rows pass the filter; the same ones come again, and JSON is slow to read."""
        with self._lock:
            if compiled.source not in self._passing:
                while len(self._passing) >= FILTERS_KEPT:
                    self._passing.pop(next(iter(self._passing)))
                self._passing[compiled.source] = evaluate_mask(compiled, self._table)
            return self._passing[compiled.source]


@dataclass(frozen=True)
class Holdings:
    """All parts of a collection, and which of their rows count."""

    parts: Sequence[Part]
    live: Masks
    _corpora: dict[str, Corpus] = field(default_factory=dict)

    def corpus(self, name: str) -> Corpus:
        """Return what BM25 must know of all parts together."""
        if name not in self._corpora:
            self._corpora[name] = Corpus([part.postings(name) for part in self.parts])
        return self._corpora[name]


@dataclass(frozen=True)
class _Flushed:
    """Segments and deletions that are on disk, and which rows they leave."""

    segments: Sequence[Segment]
    tombstones: DeltaIndex
    parts: list[Part]
    live: Masks

    def is_of(self, segments: Sequence[Segment], tombstones: DeltaIndex) -> bool:
        return (
            self.tombstones is tombstones
            and len(self.segments) == len(segments)
            and all(a is b for a, b in zip(self.segments, segments, strict=True))
        )


@dataclass(frozen=True)
class _Kept:
    """What was found last, and of what state of the collection."""

    flushed: _Flushed
    memory: Any
    counts: tuple[int, int, int]
    batches: Mapping[int, tuple[Any, Part]]
    """By the batch's id, which is no other's as long as the batch is held here."""
    holdings: Holdings


def of(collection: Collection) -> Holdings:
    """Return what `collection` holds. Call it in a reading turn: no flush may come between."""
    segments, tombstones = collection._read_snapshot()
    memory, primary = collection._memtable, collection.pk_field
    kept: _Kept | None = collection.__dict__.get("hearth_holdings")
    with memory._lock:
        counts = len(memory._insert_batches), len(memory._pk_index), len(memory._delete_index)
        is_flushed_same = kept is not None and kept.flushed.is_of(segments, tombstones)
        if kept and is_flushed_same and kept.memory is memory and kept.counts == counts:
            return kept.holdings
        batches, rows = list(memory._insert_batches), dict(memory._pk_index)
        deleted = dict(memory._delete_index)
    flushed = kept.flushed if kept and is_flushed_same else _flushed(segments, tombstones, primary)
    known = kept.batches if kept else {}
    fresh = {
        id(one): known.get(id(one)) or (one, Part(pa.Table.from_batches([one]), primary))
        for one in batches
    }
    parts = [part for _, part in fresh.values()]
    live = _over(flushed, parts, rows, deleted)
    holdings = Holdings([*flushed.parts, *parts], live)
    collection.__dict__["hearth_holdings"] = _Kept(flushed, memory, counts, fresh, holdings)
    return holdings


def flushed_parts(collection: Collection) -> list[Part]:
    """Return the parts of the segments alone; no turn is needed for them."""
    segments, _ = collection._read_snapshot()
    return [_part_of(segment, collection.pk_field) for segment in segments]


def _flushed(segments: Sequence[Segment], tombstones: DeltaIndex, primary: str) -> _Flushed:
    parts = [_part_of(segment, primary) for segment in segments]
    dead = np.fromiter(tombstones._map, dtype=np.int64, count=len(tombstones._map))
    when = np.fromiter(tombstones._map.values(), dtype=np.int64, count=len(dead))
    return _Flushed(segments, tombstones, parts, _latest(parts, dead, when))


def _part_of(segment: Segment, primary: str) -> Part:
    """Return the part of a segment, which is kept with it as long as it lives."""
    kept = segment.sparse_indexes.get("hearth_part")
    if kept is None:
        kept = segment.sparse_indexes["hearth_part"] = Part(segment.table, primary, segment)
    part: Part = kept
    return part


def _latest(parts: Sequence[Part], dead: NDArray[np.int64], when: NDArray[np.int64]) -> Masks:
    """Return which rows are the last of their id, and not deleted (ids `dead`) after that."""
    if not parts:
        return []
    ids = np.concatenate([part.ids for part in parts])
    sequence = np.concatenate([part.sequence for part in parts])
    order = np.lexsort((sequence, ids))
    live = np.zeros(len(ids), dtype=bool)
    live[order[np.append(np.flatnonzero(np.diff(ids[order])), len(ids) - 1)]] = True
    if len(dead):
        by_id = np.argsort(dead)
        at = by_id[np.minimum(np.searchsorted(dead, ids, sorter=by_id), len(dead) - 1)]
        live &= (dead[at] != ids) | (when[at] <= sequence)
    bounds = np.cumsum([len(part) for part in parts])[:-1]
    return [None if mask.all() else mask for mask in np.split(live, bounds)]


def _over(
    flushed: _Flushed,
    fresh: Sequence[Part],
    rows: Mapping[int, tuple[int, int, int]],
    deleted: Mapping[int, tuple[int, str]],
) -> Masks:
    """Return the masks of all parts: rows that are not flushed yet replace those that are."""
    live = [None if mask is None else mask.copy() for mask in flushed.live]
    counts = [np.zeros(len(part), dtype=bool) for part in fresh]
    for primary, (batch, at, sequence) in rows.items():
        counts[batch][at] = _outdate(flushed.segments, live, primary, sequence)
    for primary, (sequence, _) in deleted.items():
        _outdate(flushed.segments, live, primary, sequence)
    return [*live, *counts]


def _outdate(segments: Sequence[Segment], live: Masks, primary: int, sequence: int) -> bool:
    """Take older rows of this id out of `live`; return whether there is no newer one."""
    is_last = True
    for number, segment in enumerate(segments):
        at = segment.pk_to_row.get(primary)
        if at is None:
            continue
        if int(segment.seqs[at]) > sequence:
            is_last = False
            continue
        mask = live[number]
        if mask is None:
            mask = live[number] = np.ones(segment.num_rows, dtype=bool)
        mask[at] = False
    return is_last


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of vectors as (rows, dim)."""
    rows = _joined(column)
    found: NDArray[np.float32] = rows.flatten().to_numpy(zero_copy_only=False)
    return found.reshape(len(rows), -1)
