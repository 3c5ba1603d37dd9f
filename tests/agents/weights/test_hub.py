"""Weights from a hub on loopback that speaks the three calls that are used."""

import hashlib
import json

import msgspec
import pytest

from agents.weights import download
from agents.weights.fault import WeightsFault
from agents.weights.sources import Sources
from agents.weights.store import Weights
from agents.wire import WeightsRef
from tests.agents.weights.shelf import Item, Shelf, open_shelf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/model"
REF = WeightsRef(key="org-model", source=f"hf:{REPO}@main")
TENSORS = b"\x01\x02" * 300_000


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)


def _lfs(path: str, content: bytes) -> dict:
    large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return {"type": "file", "path": path, "oid": "0" * 40, "size": len(content), "lfs": large}


def _git(path: str, content: bytes) -> dict:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return {"type": "file", "path": path, "oid": blob.hexdigest(), "size": len(content)}


FILES = {
    "config.json": (_git, b'{"model_type": "llama"}'),
    "model.safetensors": (_lfs, TENSORS),
    "1_Pooling/config.json": (_git, b"{}"),
    "pytorch_model.bin": (_lfs, b"pickle"),
    "modeling_evil.py": (_git, b"raise SystemExit"),
    "original/model.safetensors": (_lfs, b"twice"),
    "../outside.json": (_git, b"{}"),
    "empty.txt": (_git, b""),
}


def lay_out(shelf: Shelf) -> None:
    """Put the repository on the shelf, its list of files in two pages."""
    shelf.items[f"/api/models/{REPO}/revision/main"] = _json({"sha": COMMIT})
    entries = [make(path, content) for path, (make, content) in FILES.items()]
    tree = f"/api/models/{REPO}/tree/{COMMIT}?recursive=true&expand=false"
    following = f'<{shelf.url}/page2>; rel="next"'
    shelf.items[tree] = _json([{"type": "directory", "path": "1_Pooling"}, *entries[:2]])
    shelf.items[tree].headers["Link"] = following
    shelf.items["/page2"] = _json(entries[2:])
    for path, (_, content) in FILES.items():
        shelf.items[f"/{REPO}/resolve/{COMMIT}/{path}"] = Item(content)


def _json(value: object) -> Item:
    return Item(json.dumps(value).encode(), "application/json")


def resolved(path: str) -> str:
    return f"/{REPO}/resolve/{COMMIT}/{path}"


class TestFetch:
    async def test_brings_what_an_engine_loads_and_no_code(self, shelf, store, told):
        lay_out(shelf)

        folder = await store.ensure(REF, told.append)

        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert files == {
            ".hearth-weights.json",
            "config.json",
            "model.safetensors",
            "1_Pooling/config.json",
            "empty.txt",
        }
        assert (folder / "model.safetensors").read_bytes() == TENSORS

    async def test_goes_on_where_it_stopped(self, shelf, store, told):
        lay_out(shelf)
        shelf.items[resolved("model.safetensors")].cut_after = [100_000]

        folder = await store.ensure(REF, told.append)

        asked = shelf.asked_for(resolved("model.safetensors"))
        assert [one.headers.get("range") for one in asked] == [None, "bytes=100000-"]
        assert (folder / "model.safetensors").read_bytes() == TENSORS

    async def test_files_that_are_whole_are_not_fetched_again(self, shelf, store, told):
        lay_out(shelf)
        tensors = shelf.items.pop(resolved("model.safetensors"))
        with pytest.raises(WeightsFault):
            await store.ensure(REF, told.append)
        shelf.items[resolved("model.safetensors")] = tensors

        await store.ensure(REF, told.append)

        assert len(shelf.asked_for(resolved("config.json"))) == 1

    async def test_the_token_is_shown_to_the_hub_and_to_nobody_else(self, shelf, store, told):
        lay_out(shelf)
        with open_shelf() as network:
            network.items["/blob"] = Item(TENSORS)
            away = Item(status=302, headers={"Location": f"{network.url}/blob"})
            shelf.items[resolved("model.safetensors")] = away

            await store.ensure(REF, told.append)

            (elsewhere,) = network.asked
        assert all(one.headers["authorization"] == "Bearer hf_secret" for one in shelf.asked)
        assert "authorization" not in elsewhere.headers


class TestRefusal:
    @pytest.mark.parametrize("path", ["model.safetensors", "config.json"], ids=["lfs", "git"])
    async def test_a_file_that_was_changed_keeps_nothing_of_it(self, shelf, store, told, path):
        lay_out(shelf)
        item = shelf.items[resolved(path)]
        item.body = bytes(len(item.body))

        with pytest.raises(WeightsFault, match=path) as caught:
            await store.ensure(REF, told.append)

        assert caught.value.code == "weights_checksum"
        assert list(store.cache_dir.rglob(f"{path}.partial")) == []

    async def test_a_gated_model_says_what_to_do(self, shelf, store, told):
        shelf.items[f"/api/models/{REPO}/revision/main"] = Item(status=401)

        with pytest.raises(WeightsFault, match="accept the model's licence") as caught:
            await store.ensure(REF, told.append)

        assert caught.value.code == "weights_missing"

    async def test_a_model_without_safetensors_is_refused(self, shelf, store, told):
        lay_out(shelf)
        shelf.items["/page2"] = _json([])
        tree = f"/api/models/{REPO}/tree/{COMMIT}?recursive=true&expand=false"
        shelf.items[tree] = _json([_lfs("pytorch_model.bin", b"pickle")])

        with pytest.raises(WeightsFault, match="no safetensors files"):
            await store.ensure(REF, told.append)

    async def test_a_hub_out_of_reach_is_named(self, tmp_path, told):
        store = Weights(tmp_path, sources=Sources(hub="http://hub.invalid"))

        with pytest.raises(WeightsFault, match=r"http://hub\.invalid cannot be reached") as caught:
            await store.ensure(REF, told.append)

        assert caught.value.code == "weights_missing"

    @pytest.mark.parametrize("source", ["hf:model@main", "hf:org/model", "hf:org/model@../x"])
    async def test_a_source_that_is_none_is_refused(self, store, told, source):
        with pytest.raises(WeightsFault, match="is not hf:<org>/<name>@<revision>"):
            await store.ensure(msgspec.structs.replace(REF, source=source), told.append)
