"""Milvus Lite as `vectord` makes it fast: answers as its own ways give them, at every state."""

import inspect
import json

import numpy as np
import pyarrow as pa
import pytest

from apps.rag import unpandas

unpandas.forbid()

from milvus_lite.adapter.grpc.servicer import MilvusServicer  # noqa: E402 - as above
from milvus_lite.analyzer import sparse  # noqa: E402
from milvus_lite.analyzer.standard import StandardAnalyzer  # noqa: E402
from milvus_lite.db import MilvusLite  # noqa: E402
from milvus_lite.engine.collection import Collection  # noqa: E402
from milvus_lite.index.sparse_inverted import SparseInvertedIndex  # noqa: E402
from milvus_lite.schema.types import (  # noqa: E402
    CollectionSchema,
    DataType,
    FieldSchema,
    Function,
    FunctionType,
)
from milvus_lite.storage.memtable import MemTable  # noqa: E402
from pymilvus.client.prepare import Prepare  # noqa: E402

from apps.rag import intake  # noqa: E402
from apps.rag.postings import Corpus, Postings  # noqa: E402

THEIR_TABLE = MemTable._build_data_table  # tests are collected before anything is installed
DIMENSION = 4
VOCABULARY = [f"word{number}" for number in range(40)]


def texts(rows: int, seed: int = 3) -> list[dict[int, float]]:
    dice = np.random.default_rng(seed)
    return [
        {int(t): float(dice.integers(1, 5)) for t in dice.zipf(1.5, size=30) if t < 500}
        for _ in range(rows)
    ]


def packed(rows: list[dict[int, float]]) -> pa.Array:
    return pa.array([sparse.sparse_to_bytes(row) for row in rows], pa.binary())


def scores(parts: list[Postings], query: dict[int, float], k1=1.5, b=0.75) -> np.ndarray:
    corpus = Corpus(parts)
    weights = corpus.weights(query)
    return np.concatenate([p.scores(weights, corpus.mean_length, k1=k1, b=b) for p in parts])


class TestPostings:
    def test_score_as_milvus_lites_own(self):
        rows, queries = texts(300), texts(20, seed=8)
        theirs, ours = SparseInvertedIndex(k1=1.3, b=0.6), [Postings(packed(rows))]
        theirs.build(rows)

        _, wanted = theirs.search(queries, 10)
        found = [np.sort(-scores(ours, query, k1=1.3, b=0.6))[:10] for query in queries]

        assert np.allclose(found, wanted, rtol=1e-5)

    def test_score_the_same_whatever_parts_the_rows_lie_in(self):
        rows = texts(300)
        whole = [Postings(packed(rows))]
        parts = [Postings(packed(rows[:40])), Postings(packed(rows[40:]))]

        assert np.allclose(scores(whole, {3: 1.0, 7: 2.0}), scores(parts, {3: 1.0, 7: 2.0}))

    def test_of_a_slice_are_its_rows(self):
        rows = packed(texts(50))

        assert Postings(rows[10:20]).lengths.tolist() == Postings(rows).lengths[10:20].tolist()

    @pytest.mark.parametrize("rows", [[], [{}], [{}, {5: 2.0}]], ids=["none", "empty", "half"])
    def test_of_nothing_score_nothing(self, rows):
        assert scores([Postings(packed(rows))], {1: 1.0}).tolist() == [0.0] * len(rows)


def test_words_are_packed_as_milvus_lite_packs_them():
    text = "the shock wave, and the Wave of a shock: über 3.5"
    analyzer = StandardAnalyzer()

    found = intake.packed(analyzer.tokenize(text))

    assert found == sparse.sparse_to_bytes(sparse.compute_tf(analyzer.analyze(text)))
    assert intake.packed([]) == b""


@pytest.fixture
def held(tmp_path, milvus_lite):
    lite = MilvusLite(str(tmp_path))
    fields = [
        FieldSchema(name="id", dtype=DataType.INT64, is_primary=True),
        FieldSchema(name="doc", dtype=DataType.INT64),
        FieldSchema(name="meta", dtype=DataType.JSON),
        FieldSchema(name="dense", dtype=DataType.FLOAT_VECTOR, dim=DIMENSION),
        FieldSchema(name="lex", dtype=DataType.VARCHAR, max_length=500, enable_analyzer=True),
        FieldSchema(name="sparse", dtype=DataType.SPARSE_FLOAT_VECTOR, is_function_output=True),
    ]
    bm25 = Function(
        name="bm25",
        function_type=FunctionType.BM25,
        input_field_names=["lex"],
        output_field_names=["sparse"],
    )
    lite.create_collection("c", CollectionSchema(fields=fields, functions=[bm25]))
    yield lite
    lite.close()


@pytest.fixture
def collection(held) -> Collection:
    return held.get_collection("c")


def records(first: int, count: int, seed: int = 1) -> list[dict]:
    dice = np.random.default_rng(seed)
    return [
        {
            "id": number,
            "doc": number // 10,
            "meta": {"kind": "pdf" if number % 2 else "text", "m_year": 2000 + number},
            "dense": dice.normal(size=DIMENSION).astype("f4").tolist(),
            "lex": " ".join(dice.choice(VOCABULARY, 12)),
        }
        for number in range(first, first + count)
    ]


def at_every_state(collection) -> None:
    """Rows in two segments and in memory; some replaced and some deleted, on disk and in memory."""
    collection.insert(records(0, 50))
    collection.flush()
    collection.insert(records(40, 40, seed=2))
    collection.delete([3, 70])
    collection.flush()
    collection.insert(records(60, 30, seed=3))
    collection.delete([5, 75, 84])


def both_ways(call, collection, *args, **more):
    ours = getattr(collection, call)(*args, **more)
    return ours, inspect.unwrap(getattr(Collection, call))(collection, *args, **more)


def kept(collection) -> list[dict]:
    rows = collection._memtable.get_active_records()
    return [row | {"meta": json.loads(row["meta"])} for row in rows]


WHERE = [None, 'meta["m_year"] >= 2055', "doc == 4", 'meta["kind"] == "pdf" and doc < 3']


class TestReads:
    @pytest.mark.parametrize("where", WHERE)
    def test_the_nearest_are_those_that_milvus_lite_finds(self, collection, where):
        at_every_state(collection)
        asked = {"top_k": 20, "anns_field": "dense", "output_fields": ["id"], "expr": where}

        ours, theirs = both_ways("search", collection, [[1.0, 0.2, 0.0, 1.0], [0.0] * 4], **asked)

        assert [hit["id"] for hit in ours[0]] == [hit["id"] for hit in theirs[0]]
        for one, other in zip(ours, theirs, strict=True):
            wanted = [hit["distance"] for hit in other]
            assert np.allclose([hit["distance"] for hit in one], wanted, atol=1e-6)

    @pytest.mark.parametrize("where", WHERE)
    def test_words_find_the_rows_that_hold_them_and_still_count(self, collection, where):
        at_every_state(collection)
        asked = {"top_k": 200, "anns_field": "sparse", "output_fields": ["id"], "expr": where}

        ours, theirs = both_ways("search", collection, ["word7 word9"], **asked)

        # The scores are those of one whole here, those of each part by itself there.
        assert {hit["id"] for hit in ours[0]} == {hit["id"] for hit in theirs[0]}
        assert [hit["distance"] for hit in ours[0]] == sorted(hit["distance"] for hit in ours[0])

    @pytest.mark.parametrize("where", WHERE)
    def test_ids_that_pass_a_filter_are_the_same_and_in_the_same_order(self, collection, where):
        at_every_state(collection)

        ours, theirs = both_ways("query", collection, where, output_fields=["id"])

        assert ours == theirs

    def test_a_row_that_was_read_is_seen_replaced_at_once(self, collection):
        collection.insert(records(0, 10))
        collection.search([[1.0] * 4], output_fields=["id"], anns_field="dense")

        collection.insert([{**records(3, 1)[0], "dense": [1.0] * 4, "lex": "new"}])
        dense = collection.search([[1.0] * 4], 1, output_fields=["id"], anns_field="dense")
        lexical = collection.search(["new"], output_fields=["id"], anns_field="sparse")

        assert (dense[0][0]["id"], round(dense[0][0]["distance"], 4)) == (3, 1.0)
        assert [hit["id"] for hit in lexical[0]] == [3]

    def test_what_has_no_shortcut_is_answered_as_before(self, collection):
        at_every_state(collection)

        found = collection.search([[1.0] * 4], 2, output_fields=["lex"], anns_field="dense")

        assert all("word" in hit["entity"]["lex"] for hit in found[0])


class TestWrites:
    def request(self, rows: list[dict], **more):
        info = [
            {"name": "id", "type": 5, "is_primary": True},
            {"name": "doc", "type": 5},
            {"name": "meta", "type": 23},
            {"name": "dense", "type": 101, "params": {"dim": DIMENSION}},
            {"name": "lex", "type": 21, "params": {"max_length": 500}},
        ]
        return Prepare.row_upsert_param("c", rows, "", info, **more)

    def test_rows_are_kept_as_milvus_lite_keeps_them(self, held, collection):
        servicer, rows = MilvusServicer(held), records(0, 30)

        answer = servicer.Upsert(self.request(rows), None)
        ours = kept(collection)
        inspect.unwrap(MilvusServicer.Upsert)(servicer, self.request(rows), None)

        assert (answer.status.code, answer.upsert_cnt) == (0, 30)
        assert list(answer.IDs.int_id.data) == list(range(30))
        assert ours == kept(collection)

    @pytest.mark.parametrize(
        ("change", "told"),
        [({"lex": "x" * 501}, "max_length"), ({"dense": [1.0, 2.0]}, "elements")],
        ids=["words too long", "vector too short"],
    )
    def test_what_is_wrong_is_refused_by_milvus_lite(self, held, change, told):
        rows = [records(0, 1)[0] | change, *records(1, 1)]

        answer = MilvusServicer(held).Upsert(self.request(rows), None)

        assert told in answer.status.reason

    def test_a_flush_writes_the_same_table(self, collection):
        collection.insert(records(0, 20))
        collection.insert(records(10, 20, seed=4))
        memory = collection._memtable
        rows = [place[:2] for place in memory._pk_index.values()]

        ours = memory._build_data_table(rows)

        assert ours.equals(THEIR_TABLE(memory, rows))

    def test_all_is_there_again_after_flush_and_reopening(self, held, collection, tmp_path):
        at_every_state(collection)
        before = collection.query(None, output_fields=["id"])

        held.close()
        again = MilvusLite(str(tmp_path))
        found = again.get_collection("c").query(None, output_fields=["id", "lex"])
        again.close()

        assert {row["id"] for row in found} == {row["id"] for row in before}
        assert {row["id"]: row["lex"] for row in found}[85] == records(60, 30, seed=3)[25]["lex"]
