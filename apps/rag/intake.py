"""Rows on their way into Milvus Lite, column by column, as they come and as they are kept.

Its own way makes a dict of each row, looks at every number of every vector, hashes each word letter
by letter, and takes a flush apart into Python values again: 1 ms a chunk. Anything that is not of
Hearth's plain kind goes that way. Called by `swift`.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from milvus_lite.analyzer.hash import term_to_id
from milvus_lite.constants import DATA_FILE_TEMPLATE, DEFAULT_PARTITION, SEQ_FORMAT_WIDTH
from milvus_lite.engine.collection import Collection
from milvus_lite.engine.operation import InsertOp
from milvus_lite.schema.types import DataType, FieldSchema
from milvus_lite.storage.memtable import MemTable
from milvus_lite.storage.paths import persisted_rel_path

WORDS_KEPT = 200_000
"""Hashes of words that are remembered: about 25 MB."""

_term_id = lru_cache(WORDS_KEPT)(term_to_id)


def columns(collection: Collection, request: Any) -> dict[str, pa.Array] | None:  # noqa: ANN401
    """Return the columns of an upsert with those that BM25 makes, None if it is no plain one.

    Plain is: all fields of the schema with a value in each row, integers as ids, no partitions.
    """
    schema = collection.schema
    words = {made.output_field_names[0]: made.input_field_names[0] for made in schema.functions}
    given = {data.field_name: data for data in request.fields_data}
    wanted = [field for field in schema.fields if field.name not in words]
    is_plain = (
        request.partition_name in ("", DEFAULT_PARTITION)
        and set(words) == set(collection._bm25_analyzers)
        and not schema.enable_dynamic_field
        and given.keys() == {field.name for field in wanted}
        and not any(field.nullable or field.auto_id or field.is_partition_key for field in wanted)
    )
    if not is_plain or any(len(data.valid_data) for data in given.values()):
        return None
    found = {field.name: _column(field, given[field.name]) for field in wanted}
    for output, text in words.items():
        analyzer = collection._bm25_analyzers[output]
        texts = given[text].scalars.string_data.data
        found[output] = pa.array([packed(analyzer.tokenize(one)) for one in texts], pa.binary())
    rows = request.num_rows
    if any(column is None or len(column) != rows for column in found.values()):
        return None
    return {field.name: found[field.name] for field in schema.fields}


def append(collection: Collection, found: dict[str, pa.Array]) -> list[int]:
    """Write the columns to the log and to memory; return the ids. Call it in a writing turn."""
    ids: list[int] = found[collection.pk_field].to_pylist()
    first = collection._next_seq
    collection._next_seq += len(ids)
    numbers = pa.array(np.arange(first, first + len(ids), dtype=np.uint64))
    partition = pa.array([DEFAULT_PARTITION] * len(ids))
    batch = pa.RecordBatch.from_arrays(
        [numbers, partition, *found.values()], schema=collection._wal_data_schema
    )
    collection._apply(InsertOp(partition=DEFAULT_PARTITION, batch=batch))
    if collection._should_flush():
        collection._trigger_flush()
    return ids


def packed(tokens: Sequence[str]) -> bytes:
    """Return (uint32 term, float32 count) pairs by term, as Milvus Lite keeps a sparse vector."""
    counts: Counter[int] = Counter()
    for token, count in Counter(tokens).items():
        counts[_term_id(token)] += count
    return struct.pack("<" + "If" * len(counts), *chain.from_iterable(sorted(counts.items())))


def _column(field: FieldSchema, data: Any) -> pa.Array | None:  # noqa: ANN401 - a FieldData
    if field.dtype == DataType.INT64:
        return pa.array(data.scalars.long_data.data, pa.int64())
    if field.dtype == DataType.JSON:
        return pa.array(list(data.scalars.json_data.data), pa.string())
    if field.dtype == DataType.VARCHAR:
        texts = list(data.scalars.string_data.data)
        is_short = field.max_length is None or max(map(len, texts), default=0) <= field.max_length
        return pa.array(texts, pa.string()) if is_short else None
    if field.dtype == DataType.FLOAT_VECTOR and data.vectors.dim == field.dim:
        return _vectors(data.vectors.float_vector, field.dim)
    return None


def _vectors(floats: Any, dimension: int) -> pa.Array | None:  # noqa: ANN401 - a FloatArray
    """Return the numbers as rows: the tail of the message's bytes is the numbers as they are."""
    count = len(floats.data)
    if count % dimension:
        return None
    raw = floats.SerializeToString()
    numbers = np.frombuffer(raw, "<f4", count=count, offset=len(raw) - 4 * count)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers), dimension)


def flushed(memory: MemTable, rows: Sequence[tuple[int, int]]) -> pa.Table:
    """Return the rows (batch, place) of `memory` as a data file holds them."""
    starts = np.cumsum([0, *(batch.num_rows for batch in memory._insert_batches)])
    places = np.array([starts[batch] + at for batch, at in rows], dtype=np.int64)
    table = pa.Table.from_batches(memory._insert_batches).select(memory._data_schema.names)
    return table.take(pa.array(places)).cast(memory._data_schema).combine_chunks()


def write_file(table: pa.Table, partition_dir: str, seq_min: int, seq_max: int) -> str:
    """Write a data file as Milvus Lite does, but spend no time on numbers that do not shrink."""
    name = DATA_FILE_TEMPLATE.format(min=seq_min, max=seq_max, w=SEQ_FORMAT_WIDTH)
    folder = Path(partition_dir) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, folder / name, compression="lz4", use_dictionary=False, write_statistics=False
    )
    path: str = persisted_rel_path("data", name)
    return path
