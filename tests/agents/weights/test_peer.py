"""Weights from another host, through a real relay front, and what a wrong peer can do."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agents.relay.access import Access
from agents.relay.exchange import Front
from agents.relay.lending import STAMP
from agents.stock import Lenders, Peer, WeightsRef
from agents.weights import tree
from agents.weights.fault import WeightsFault
from agents.weights.sources import Sources
from agents.weights.store import Weights

KEY = "a-weights-key"
TENSORS = bytes(range(256)) * 4000
REF = WeightsRef(key="model-1", source="hf:org/model@main")


class Lender:
    """A host that has weights whole, and its relay."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "ready"
        self.config = folder / "relay.json"
        self.model = self.root / REF.key
        (self.model / "sub").mkdir(parents=True)
        (self.model / "model.safetensors").write_bytes(TENSORS)
        (self.model / "sub" / "config.json").write_text("{}")
        (self.model / STAMP).write_text("{}")
        (self.root.parent / "secret.json").write_text("{}")
        digests = [hashlib.sha256(KEY.encode()).hexdigest()]
        config = {"routes": {}, "keys": [], "weights_keys": digests, "weights_root": str(self.root)}
        self.config.write_text(json.dumps(config))
        self.port = 0

    @property
    def told(self) -> Lenders:
        """What another host is told of it."""
        peer = Peer(host="lender", url=f"http://127.0.0.1:{self.port}", key=KEY)
        checksum = tree.checksum(self.model)
        return Lenders(weights_key=REF.key, tree_sha256=checksum, peers=(peer,))


@pytest.fixture
async def lender(tmp_path: Path) -> AsyncIterator[Lender]:
    made = Lender(tmp_path / "lender")
    access, fronts = Access(made.config), set[Front]()
    server = await asyncio.get_running_loop().create_server(
        lambda: Front(access, b"{}", fronts), "127.0.0.1", 0
    )
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
def borrower(tmp_path: Path) -> Weights:
    nowhere = "http://127.0.0.1:9"  # the source cannot be reached: only a peer helps
    sources = Sources(indexes=(nowhere,), hub=nowhere)
    return Weights(tmp_path / "borrower", sources=sources)


class TestCopying:
    async def test_brings_the_whole_folder(self, lender: Lender, borrower: Weights) -> None:
        borrower.borrow_from([lender.told])

        folder = await borrower.ensure(REF, lambda _progress: None)

        assert (folder / "model.safetensors").read_bytes() == TENSORS
        assert (folder / "sub" / "config.json").read_text() == "{}"
        assert borrower.lendable() == {REF.key: lender.told.tree_sha256}

    async def test_goes_on_where_it_stopped(self, lender: Lender, borrower: Weights) -> None:
        partial = borrower.cache_dir / "work" / REF.key / "from-peer" / "model.safetensors.partial"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(TENSORS[:300_000])
        borrower.borrow_from([lender.told])

        folder = await borrower.ensure(REF, lambda _progress: None)

        assert (folder / "model.safetensors").read_bytes() == TENSORS

    async def test_takes_nothing_that_differs_from_what_was_first_brought(
        self, lender: Lender, borrower: Weights
    ) -> None:
        borrower.borrow_from([lender.told])
        (lender.model / "model.safetensors").write_bytes(TENSORS[::-1])

        with pytest.raises(WeightsFault, match="cannot be reached"):
            await borrower.ensure(REF, lambda _progress: None)

        assert borrower.present(REF) is None

    @pytest.mark.parametrize("key", ["", "another-key"])
    async def test_is_refused_without_the_key(
        self, lender: Lender, borrower: Weights, key: str
    ) -> None:
        peer = msgspec.structs.replace(lender.told.peers[0], key=key)
        borrower.borrow_from([msgspec.structs.replace(lender.told, peers=(peer,))])

        with pytest.raises(WeightsFault):
            await borrower.ensure(REF, lambda _progress: None)

    @pytest.mark.parametrize(
        "target",
        ["/w/../secret.json", "/w/model-1/../../secret.json", "/w/model-1/%2e%2e/x", "/w/"],
    )
    async def test_never_leaves_the_folder(self, lender: Lender, target: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", lender.port)
        head = f"GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n"
        writer.write(head.encode())

        assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        writer.close()
