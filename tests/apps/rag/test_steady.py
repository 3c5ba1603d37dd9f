"""The embedded Milvus Lite as `vectord` runs it: sound while it is written to, and exact."""

import threading

import numpy as np
import pytest

from apps.rag import unpandas

unpandas.load()

from milvus_lite.analyzer import sparse  # noqa: E402 - only once pymilvus has no pandas
from milvus_lite.db import MilvusLite  # noqa: E402
from milvus_lite.index.sparse_inverted import SparseInvertedIndex  # noqa: E402
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema  # noqa: E402
from milvus_lite.search import distance  # noqa: E402

from apps.rag import steady  # noqa: E402
from apps.rag.postings import Postings  # noqa: E402

THEIR_COSINE, THEIR_UNPACKED = distance.cosine_distance, sparse.bytes_to_sparse


def texts(rows: int, seed: int = 3) -> list[dict[int, float]]:
    dice = np.random.default_rng(seed)
    return [
        {int(t): float(dice.integers(1, 5)) for t in dice.zipf(1.5, size=30) if t < 500}
        for _ in range(rows)
    ]


class TestPostings:
    @pytest.mark.parametrize("masked", [False, True])
    def test_rank_as_milvus_lites_own(self, masked):
        rows, queries = texts(300), texts(20, seed=8)
        mask = np.arange(300) % 3 != 0 if masked else None
        theirs, ours = SparseInvertedIndex(k1=1.3, b=0.6), Postings(k1=1.3, b=0.6)
        theirs.build(rows)
        ours.build(rows)

        _, wanted = theirs.search(queries, 10, valid_mask=mask)
        ids, found = ours.search(queries, 10, valid_mask=mask)

        assert np.allclose(found, wanted, rtol=1e-5)
        assert mask is None or mask[ids[ids >= 0]].all()

    def test_leave_rows_out_when_they_are_built(self):
        mask = np.arange(50) < 40
        theirs, ours = SparseInvertedIndex(), Postings()
        theirs.build(texts(50), mask)
        ours.build(texts(50), mask)

        assert ours.doc_count == theirs.doc_count
        assert np.allclose(ours.search(texts(5), 60)[1], theirs.search(texts(5), 60)[1], rtol=1e-5)

    def test_of_nothing_find_nothing(self):
        empty = Postings()
        empty.build([])

        ids, distances = empty.search([{1: 1.0}, {}], 3)

        assert (ids == -1).all()
        assert np.isinf(distances).all()


def test_distances_and_unpacking_are_milvus_lites_own():
    dice = np.random.default_rng(1)
    queries, rows = dice.normal(size=(3, 16)).astype("f4"), dice.normal(size=(50, 16)).astype("f4")
    rows[7] = 0
    packed = sparse.sparse_to_bytes({7: 2.0, 99: 1.0})

    assert np.allclose(
        steady._cosine_distance(queries, rows), THEIR_COSINE(queries, rows), atol=1e-6
    )
    assert steady._unpacked(packed) == THEIR_UNPACKED(packed)
    assert steady._unpacked(b"") == {}


class TestTurns:
    def test_a_flush_waits_for_readers_and_they_for_it(self):
        turns, order = steady.Turns(), []
        reads, may_end = threading.Event(), threading.Event()

        def read() -> None:
            with turns.reading(), turns.reading():
                reads.set()
                may_end.wait(5)
                order.append("read")

        def flush() -> None:
            reads.wait(5)
            with turns.writing, turns.flushing():
                order.append("flushed")

        threads = [threading.Thread(target=read), threading.Thread(target=flush)]
        for thread in threads:
            thread.start()
        reads.wait(5)
        may_end.set()
        for thread in threads:
            thread.join(5)

        assert order == ["read", "flushed"]


@pytest.fixture(scope="module")
def installed():
    steady.install()


@pytest.fixture
def collection(tmp_path, installed):
    held = MilvusLite(str(tmp_path))
    fields = [
        FieldSchema(name="id", dtype=DataType.INT64, is_primary=True),
        FieldSchema(name="dense", dtype=DataType.FLOAT_VECTOR, dim=4),
    ]
    held.create_collection("c", CollectionSchema(fields=fields))
    yield held, held.get_collection("c")
    held.close()


def written(collection, first: int, count: int = 20) -> None:
    collection.upsert([{"id": first + n, "dense": [1.0, n, 0.0, 1.0]} for n in range(count)])


class TestCollection:
    def test_shows_all_that_was_acknowledged_while_it_flushes(self, collection):
        _, rows = collection
        over, missed, acknowledged = threading.Event(), [], [0]

        def look() -> None:
            while not over.is_set():
                least = acknowledged[0]
                found = len(
                    rows.search([[1.0, 0.0, 0.0, 1.0]], top_k=5000, output_fields=["id"])[0]
                )
                if found < least:
                    missed.append((found, least))

        thread = threading.Thread(target=look)
        thread.start()
        for at in range(8):
            written(rows, at * 20)
            acknowledged[0] += 20
            rows.flush()
        over.set()
        thread.join(10)

        assert missed == []

    def test_is_flushed_when_it_was_left_alone(self, collection):
        held, rows = collection
        written(rows, 0)
        at = steady.turns_of(rows).written_at

        steady.flush_still(held, at + steady.STILL_SECONDS / 2)
        early = rows._memtable.size()
        steady.flush_still(held, at + steady.STILL_SECONDS)

        assert (early, rows._memtable.size()) == (20, 0)
        assert rows.num_entities == 20

    def test_is_opened_once_by_many_at_once(self, collection):
        held, rows = collection
        rows.close()
        held._collections.clear()
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(held.get_collection("c")))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

        assert len({id(one) for one in found}) == 1
