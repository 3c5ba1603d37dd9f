"""Milvus Lite 3.2.2 made fast in the process that holds it; what it answers stays the same.

Read in its source; `tests/apps/rag/test_swift.py` compares what is here with its own ways:

- A search works out in Python, row by row, which rows still count, and reads every column of every
  hit to throw them away. Here it uses arrays that are kept (`holdings`, `shortcuts`), and they are
  made in the background as soon as a segment is there.
- Every segment gets a graph (HNSW), built anew at each compaction: most of the cost of writing.
  Here only full segments do; others are searched exactly, at 0.2 microseconds a row.
- Counting the rows of a filter reads all their columns too.
- Each read copies all deletions; here they are copied when there is another one.
- Rows are taken apart into Python values on their way in, and once more when they are flushed.

Loaded by `vectord` alone, before `steady`, which puts turns around what is here.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

from milvus_lite.adapter.grpc.errors import success_status_kwargs
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.engine import compaction, flush
from milvus_lite.engine.collection import Collection
from milvus_lite.exceptions import MilvusLiteError
from milvus_lite.storage.delta_index import DeltaIndex
from milvus_lite.storage.memtable import MemTable
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from apps.rag import intake, shortcuts

SMALL_ROWS = 100_000
"""Segments with fewer rows have no graph; none gets more (`MAX_SEGMENT_ROWS`)."""


def install() -> None:
    """Change Milvus Lite in this process. Once, before `steady.install`."""
    Collection.search = _by_shortcut(Collection.search)
    Collection.query = _ids_by_shortcut(Collection.query)
    Collection.hearth_append = intake.append
    Collection._bg_compact_and_index = _then_warms(Collection._bg_compact_and_index)
    Collection._build_or_load_segment_index = _when_large(Collection._build_or_load_segment_index)
    MilvusServicer.Query = _tells_that_it_counts(MilvusServicer.Query)
    MilvusServicer.Upsert = _by_columns(MilvusServicer.Upsert)
    MemTable._build_data_table = intake.flushed
    flush.write_data_file = compaction.write_data_file = intake.write_file
    for name in ("add_batch", "gc_below"):
        setattr(DeltaIndex, name, _changes_deletions(getattr(DeltaIndex, name)))
    DeltaIndex.frozen_copy = _copied_once(DeltaIndex.frozen_copy)


def _by_shortcut(search: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a search for ids alone over arrays."""

    @functools.wraps(search)
    def searched(
        self: Collection,
        query_vectors: list[Any],
        top_k: int = 10,
        metric_type: str | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        name = self._resolve_anns_field(more.get("anns_field"))
        metric = self.resolve_search_metric(name, metric_type)
        is_short = more.get("output_fields") == [self.pk_field] and metric in shortcuts.METRICS
        if not query_vectors or not is_short or not shortcuts.is_plain(self, more):
            return search(self, query_vectors, top_k, metric_type, **more)
        self._require_loaded()
        return shortcuts.nearest(
            self,
            query_vectors,
            name=name,
            limit=top_k,
            expression=more.get("expr"),
            params=more.get("search_params") or {},
        )

    return searched


_asked = threading.local()


def _tells_that_it_counts(call: Callable[..., Any]) -> Callable[..., Any]:
    """Let `Collection.query` know that its rows are only counted."""

    @functools.wraps(call)
    def told(self: MilvusServicer, request: Any, context: Any) -> Any:  # noqa: ANN401
        _asked.count = list(request.output_fields) == ["count(*)"]
        try:
            return call(self, request, context)
        finally:
            _asked.count = False

    return told


def _ids_by_shortcut(query: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a query for ids alone, or for their number, over arrays."""

    @functools.wraps(query)
    def queried(
        self: Collection,
        expr: str | None = None,
        output_fields: list[str] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        wants_ids = output_fields == [self.pk_field] or getattr(_asked, "count", False)
        if not wants_ids or not shortcuts.is_plain(self, more):
            return query(self, expr, output_fields, **more)
        self._require_loaded()
        found = shortcuts.passing(self, expr)[: more.get("limit")].tolist()
        return [{self.pk_field: row} for row in found]

    return queried


def _changes_deletions(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def changed(self: DeltaIndex, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            return call(self, *args, **kwargs)
        finally:
            self.hearth_copy = None

    return changed


def _copied_once(call: Callable[..., Any]) -> Callable[..., Any]:
    """Give all readers the same copy as long as nothing was deleted; nobody changes a copy."""

    @functools.wraps(call)
    def copied(self: DeltaIndex) -> DeltaIndex:
        kept = getattr(self, "hearth_copy", None)
        if kept is None:
            kept = self.hearth_copy = call(self)
        return kept

    return copied


def _by_columns(upsert: Callable[..., Any]) -> Callable[..., Any]:
    """Take plain rows in column by column."""

    @functools.wraps(upsert)
    def taken(self: MilvusServicer, request: Any, context: Any) -> Any:  # noqa: ANN401
        try:
            collection = self._get_collection(request, context)
        except MilvusLiteError:
            return upsert(self, request, context)
        columns = intake.columns(collection, request)
        if columns is None:
            return upsert(self, request, context)
        ids = collection.hearth_append(columns)
        return milvus_pb2.MutationResult(
            status=common_pb2.Status(**success_status_kwargs()),
            IDs=self._build_ids_proto(ids, collection),
            upsert_cnt=len(ids),
            succ_index=range(len(ids)),
        )

    return taken


def _then_warms(call: Callable[..., Any]) -> Callable[..., Any]:
    """Make the arrays of new segments, after their graphs."""

    @functools.wraps(call)
    def warmed(self: Collection) -> None:
        call(self)
        if self.load_state == "loaded" and not self._bg_closed:
            shortcuts.warm(self)

    return warmed


def _when_large(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def built(self: Collection, segment: Any, spec: Any) -> Any:  # noqa: ANN401
        return call(self, segment, spec) if segment.num_rows >= SMALL_ROWS else None

    return built
