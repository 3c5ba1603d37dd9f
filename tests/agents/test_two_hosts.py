"""Cache items of two hosts: the second copies what the first has, and nothing that is wrong."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agents.phases import CacheKind, CacheState
from agents.relay.access import Access
from agents.relay.exchange import Front
from agents.weights import download
from agents.weights.sources import Sources
from agents.weights.store import Weights
from agents.wire import CacheOrder, CacheReport, Peer, WeightsRef
from tests.agents.host import AgentHost
from tests.agents.weights.shelf import Shelf, open_shelf
from tests.agents.weights.test_hub import REF, TENSORS, lay_out, resolved

KEY = "a-weights-key"


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)


@pytest.fixture
def hub():
    with open_shelf() as shelf:
        lay_out(shelf)
        yield shelf


def _on_hub(host: AgentHost, hub: Shelf) -> AgentHost:
    host.weights = Weights(host.folder / "weights", sources=Sources(indexes=(), hub=hub.url))
    return host


@pytest.fixture
async def first(host: AgentHost, hub: Shelf) -> AgentHost:
    """A host that has brought the weights from the hub."""
    _on_hub(host, hub)
    await host.control_plane.cache(_item(REF))
    await host.start()
    return host


@pytest.fixture
async def second(tmp_path: Path, hub: Shelf) -> AsyncIterator[AgentHost]:
    made = _on_hub(AgentHost(tmp_path / "second"), hub)
    yield made
    await made.close()


class Counted:
    """A transport that counts what is written."""

    def __init__(self, transport: asyncio.Transport, lent: list[int]) -> None:
        self._transport = transport
        self._lent = lent

    def write(self, data: bytes) -> None:
        self._lent.append(len(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


class CountedFront(Front):
    """The relay's side of a connection, which counts what it lends."""

    lent: list[int]

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(Counted(transport, self.lent))


@pytest.fixture
def lent(monkeypatch) -> list[int]:
    """The bytes of each answer of the relay."""
    counts: list[int] = []
    monkeypatch.setattr(CountedFront, "lent", counts, raising=False)
    return counts


@pytest.fixture
async def relay(first: AgentHost, tmp_path: Path, lent: list[int]) -> AsyncIterator[str]:
    """The first host's relay, as its agent sets it up; yields its address."""
    config = tmp_path / "relay.json"
    digests = [hashlib.sha256(KEY.encode()).hexdigest()]
    root = str(first.weights.cache_dir / "ready")
    config.write_text(
        json.dumps({"routes": {}, "keys": [], "weights_keys": digests, "weights_root": root})
    )
    access, fronts = Access(config), set[Front]()
    server = await asyncio.get_running_loop().create_server(
        lambda: CountedFront(access, b"{}", fronts), "127.0.0.1", 0
    )
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


def _item(ref: WeightsRef) -> CacheOrder:
    return CacheOrder(item_id="c1", kind=CacheKind.WEIGHTS, desired=CacheState.PRESENT, weights=ref)


async def _told(host: AgentHost, state: CacheState) -> CacheReport:
    """Wait until the host says that its item is in `state`."""

    def found() -> list[CacheReport]:
        items = [item for report in host.control_plane.reports for item in report.cache_items]
        return [item for item in items if item.state is state]

    await host.control_plane.until(lambda: bool(found()))
    return found()[-1]


def _from_peer(told: CacheReport, url: str) -> WeightsRef:
    """Return the weights as the control plane names them to a host once another has them."""
    peer = Peer(host="first", url=url, key=KEY)
    return msgspec.structs.replace(REF, peers=(peer,), tree_sha256=told.sha256)


async def test_the_second_copies_from_the_first_and_asks_the_hub_for_nothing(
    first, second, relay, hub
):
    told = await _told(first, CacheState.PRESENT)
    asked = len(hub.asked)

    await second.control_plane.cache(_item(_from_peer(told, relay)))
    await second.start()
    copied = await _told(second, CacheState.PRESENT)

    assert (copied.sha256, copied.bytes > len(TENSORS)) == (told.sha256, True)
    assert copied.origin == "first"
    assert len(hub.asked) == asked
    folder = second.weights.present(REF)
    assert (folder / "model.safetensors").read_bytes() == TENSORS


async def test_a_peer_whose_bytes_differ_is_left_for_the_source(first, second, relay, hub):
    told = await _told(first, CacheState.PRESENT)
    (first.weights.present(REF) / "model.safetensors").write_bytes(TENSORS[::-1])

    await second.control_plane.cache(_item(_from_peer(told, relay)))
    await second.start()
    brought = await _told(second, CacheState.PRESENT)

    assert (brought.sha256, brought.origin) == (told.sha256, "hf")
    assert (second.weights.present(REF) / "model.safetensors").read_bytes() == TENSORS
    assert len(hub.asked_for(resolved("model.safetensors"))) == 2


async def test_without_peer_or_source_it_says_why_and_tries_again(first, second, relay, hub):
    told = await _told(first, CacheState.PRESENT)
    hub.items.clear()
    (first.weights.present(REF) / "model.safetensors").unlink()

    await second.control_plane.cache(_item(_from_peer(told, relay)))
    await second.start()
    failed = await _told(second, CacheState.FAILED)
    lay_out(hub)
    brought = await _told(second, CacheState.PRESENT)

    assert "404" in failed.reason
    assert brought.sha256 == told.sha256


async def test_a_host_that_was_killed_in_a_copy_goes_on_where_it_stopped(
    first, second, relay, lent
):
    told = await _told(first, CacheState.PRESENT)
    work = second.weights.cache_dir / "work" / REF.key / "from-peer"
    work.mkdir(parents=True)
    (work / "model.safetensors.partial").write_bytes(TENSORS[:400_000])

    await second.control_plane.cache(_item(_from_peer(told, relay)))
    await second.start()
    copied = await _told(second, CacheState.PRESENT)

    assert copied.sha256 == told.sha256
    assert len(TENSORS) - 400_000 <= sum(lent) < len(TENSORS)
