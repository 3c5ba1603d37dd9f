"""The embedded Milvus Lite as `vectord` runs it: sound while it is written to, and exact."""

import shutil
import threading

import pytest

from apps.rag import unpandas

unpandas.forbid()

from milvus_lite.db import MilvusLite  # noqa: E402 - only once pymilvus has no pandas
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema  # noqa: E402

from apps.rag import steady  # noqa: E402


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


@pytest.fixture
def collection(tmp_path, milvus_lite):
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
            # The pause lets the writer have the interpreter: it gives it up at every file.
            while not over.wait(0.001):
                least = acknowledged[0]
                found = len(
                    rows.search([[1.0, 0.0, 0.0, 1.0]], top_k=5000, output_fields=["id"])[0]
                )
                if found < least:
                    missed.append((found, least))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for at in range(8):
                written(rows, at * 20)
                acknowledged[0] += 20
                rows.flush()
        finally:
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

    def test_a_flush_that_fails_ends_the_process_and_loses_no_row(
        self, collection, tmp_path, monkeypatch
    ):
        held, rows = collection
        written(rows, 0)
        at_the_end = tmp_path.with_name("as-the-process-ended")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("milvus_lite.engine.flush.write_data_file", full)
        monkeypatch.setattr(steady, "end_process", lambda: shutil.copytree(tmp_path, at_the_end))
        with pytest.raises(OSError, match="No space left"):
            steady.flush_still(held, steady.turns_of(rows).written_at + steady.STILL_SECONDS)

        (at_the_end / "LOCK").unlink(missing_ok=True)
        again = MilvusLite(str(at_the_end))
        found = again.get_collection("c").num_entities
        again.close()
        assert found == 20

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
