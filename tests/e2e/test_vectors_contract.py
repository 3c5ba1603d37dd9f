"""What every Milvus must do for Hearth: the embedded one, the older core, a server without BM25."""

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.rag import unpandas

unpandas.load()

from apps.rag.milvus import Milvus  # noqa: E402 - only once pymilvus is loaded without pandas
from apps.rag.vectors import NoSuchCollection, Row, VectorsAway, VectorsRefused  # noqa: E402
from tests.e2e import milvus_hosts  # noqa: E402
from tests.running import wait_until  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DIMENSION = 8


def start_embedded(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "apps.rag.vectord", "--folder", str(folder / "milvus")]
    process = subprocess.Popen([*command, "--socket", str(folder / "v.sock")], cwd=ROOT)
    wait_until((folder / "v.sock:0").exists, 60, "the embedded Milvus")
    return process


@pytest.fixture(params=["embedded", "core", "server"], scope="module")
def engine(request, tmp_path_factory) -> Iterator[tuple[str, Milvus]]:
    folder = tmp_path_factory.mktemp("m")
    if request.param == "embedded":
        process = start_embedded(folder)
        yield request.param, Milvus(f"unix:{folder}/v.sock:0", "")
        process.terminate()
        process.wait(20)
        return
    host = getattr(milvus_hosts, request.param)
    with host(folder) as address:
        store = Milvus(address, "")
        wait_until(lambda: _answers(store), 120, "the server to answer")
        yield request.param, store


def _answers(store: Milvus) -> bool:
    try:
        store.capabilities()
    except VectorsAway:
        return False
    return True


def rows(count: int, first: int = 1) -> list[Row]:
    dice = random.Random(5)
    return [
        Row(
            id=number,
            document=number // 10,
            words=f"word{number} kind{number % 3}",
            meta={"kind": "pdf" if number % 2 else "text", "m_year": 2000 + number},
            vector=[dice.random() for _ in range(DIMENSION)],
        )
        for number in range(first, first + count)
    ]


class TestEveryMilvus:
    @pytest.fixture
    def filled(self, engine) -> Iterator[tuple[Milvus, list[Row]]]:
        _, store = engine
        store.create("c1", DIMENSION)
        written = rows(40)
        store.upsert("c1", written)
        # A server shows searches what was written some seconds later (bounded staleness).
        wait_until(lambda: len(store.dense("c1", [1.0] * DIMENSION, 40, "")) == 40, 20, "the rows")
        yield store, written
        store.drop("c1")

    def test_tells_what_it_can_do(self, engine):
        name, store = engine
        able = store.capabilities()

        assert able.lexical == (name != "server")
        assert able.aliases == (name != "core")
        assert able.index in ("HNSW", "FLAT")

    def test_ranks_vectors_by_cosine_and_keeps_to_filters(self, filled):
        store, written = filled

        found = store.dense("c1", written[4].vector, 5, "")
        some = store.dense("c1", written[4].vector, 40, 'meta["m_year"] >= 2030')

        assert (found[0].id, round(found[0].score, 4)) == (written[4].id, 1.0)
        assert [one.score for one in found] == sorted((o.score for o in found), reverse=True)
        assert {one.id for one in some} == set(range(30, 41))

    def test_ranks_words_or_says_that_it_cannot(self, engine, filled):
        store, _ = filled
        if engine[0] == "server":
            with pytest.raises(VectorsRefused):
                store.lexical("c1", "word7", 5, "")
            return

        found = store.lexical("c1", "word7 kind1", 5, "")

        assert found[0].id == 7
        assert found[0].score > found[1].score > 0

    def test_replaces_counts_and_deletes(self, filled):
        store, written = filled

        store.upsert("c1", written[:10])
        before = store.count("c1"), store.count("c1", 1)
        store.delete_document("c1", 1)

        assert before == (40, 10)
        assert store.count("c1", 1) == 0
        assert store.passes("c1", 25, 'meta["kind"] == "pdf"')
        assert not store.passes("c1", 24, 'meta["kind"] == "pdf"')

    def test_moves_an_alias_and_forgets_a_dropped_collection(self, filled):
        store, written = filled
        store.create("c2", DIMENSION)

        store.point("a1", "c1")
        store.point("a1", "c2")
        store.drop("c2")

        with pytest.raises(NoSuchCollection):
            store.dense("c2", written[0].vector, 1, "")


class TestEmbedded:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_loses_nothing_that_it_acknowledged_when_it_ends(self, tmp_path, number):
        process = start_embedded(tmp_path)
        store = Milvus(f"unix:{tmp_path}/v.sock:0", "")
        store.create("c1", DIMENSION)
        written = rows(500)
        for at in range(0, 500, 50):
            store.upsert("c1", written[at : at + 50])

        process.send_signal(number)
        process.wait(20)
        (tmp_path / "v.sock:0").unlink(missing_ok=True)
        again = start_embedded(tmp_path)
        try:
            assert wait_until(lambda: _count(store), 30, "it to answer again") == 500
            assert store.dense("c1", written[4].vector, 1, "")[0].id == written[4].id
            assert store.lexical("c1", "word7", 1, "")[0].id == 7
            store.upsert("c1", rows(1, 900))
            store.delete_document("c1", 90)
            assert store.count("c1") == 500
        finally:
            again.terminate()
            again.wait(20)

    def test_a_second_one_on_the_folder_says_so_and_ends(self, tmp_path):
        process = start_embedded(tmp_path)
        command = [sys.executable, "-m", "apps.rag.vectord", "--folder", str(tmp_path / "milvus")]
        try:
            second = subprocess.run(
                [*command, "--socket", str(tmp_path / "w.sock")],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        finally:
            process.terminate()
            process.wait(20)

        assert second.returncode == 2
        assert b"another process holds" in second.stderr

    def test_serves_four_readers_and_two_writers_without_a_lock_error(self, tmp_path):
        process = start_embedded(tmp_path)
        Milvus(f"unix:{tmp_path}/v.sock:0", "").create("c1", DIMENSION)
        code = (
            "import sys; from apps.rag import unpandas; unpandas.load()\n"
            "from apps.rag.milvus import Milvus; from tests.e2e.test_vectors_contract import rows\n"
            "store = Milvus(sys.argv[1], ''); first = int(sys.argv[2]); all = rows(300, first)\n"
            "for at in range(0, 300, 30):\n"
            "    if first: store.upsert('c1', all[at:at + 30])\n"
            "    else: store.lexical('c1', 'kind1', 5, ''); store.dense('c1', [1.0] * 8, 5, '')\n"
        )
        uri = f"unix:{tmp_path}/v.sock:0"
        try:
            others = [
                subprocess.Popen([sys.executable, "-c", code, uri, str(first)], cwd=ROOT)
                for first in (1, 1001, 0, 0, 0, 0)
            ]
            assert [one.wait(120) for one in others] == [0] * 6
            assert Milvus(uri, "").count("c1") == 600
        finally:
            process.terminate()
            process.wait(20)


def _count(store: Milvus) -> int:
    try:
        return store.count("c1")
    except VectorsAway:
        threading.Event().wait(0.1)
        return 0
