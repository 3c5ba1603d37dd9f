"""Weights of two hosts: the second copies what the first has, and nothing that is wrong."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.phases import CacheKind, CacheState
from agents.relay.access import Access
from agents.relay.exchange import Front
from agents.weights import download
from agents.weights.sources import Sources
from agents.weights.store import Weights
from agents.wire import CacheOrder, CacheReport, Lenders, Peer, WeightsRef
from tests.agents.fakes import order
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


async def _checksum(host: AgentHost) -> str:
    """Wait until the host says that the weights lie there whole; return their checksum."""

    def told() -> list[str]:
        inventories = [r.inventory for r in host.control_plane.reports if r.inventory is not None]
        return [seen.weights[REF.key] for seen in inventories if REF.key in seen.weights]

    await host.control_plane.until(lambda: bool(told()))
    return told()[-1]


async def _name(first: AgentHost, to: AgentHost, url: str) -> str:
    """Name the first host to another as one that lends, once it does; return the checksum."""
    checksum = await _checksum(first)
    peer = Peer(host="first", url=url, key=KEY)
    lenders = Lenders(weights_key=REF.key, tree_sha256=checksum, peers=(peer,))
    to.control_plane.lenders = (lenders,)
    return checksum


async def test_the_second_copies_from_the_first_and_asks_the_hub_for_nothing(
    first, second, relay, hub
):
    checksum = await _name(first, second, relay)
    asked = len(hub.asked)

    await second.control_plane.cache(_item(REF))
    await second.start()
    copied = await _told(second, CacheState.PRESENT)

    assert (copied.origin, copied.bytes > len(TENSORS)) == ("first", True)
    assert await _checksum(second) == checksum
    assert len(hub.asked) == asked
    folder = second.weights.present(REF)
    assert (folder / "model.safetensors").read_bytes() == TENSORS


async def test_a_start_copies_too_and_then_lends(first, second, relay, hub):
    checksum = await _name(first, second, relay)
    asked = len(hub.asked)

    await second.control_plane.order(order(weights=REF))
    await second.start()
    await second.control_plane.until_phase("r1", "ready")

    assert len(hub.asked) == asked
    assert (second.weights.present(REF) / "model.safetensors").read_bytes() == TENSORS
    assert await _checksum(second) == checksum


async def test_a_start_goes_to_the_source_where_no_peer_helps(first, second, relay, hub):
    await _name(first, second, relay)
    (first.weights.present(REF) / "model.safetensors").unlink()

    await second.control_plane.order(order(weights=REF))
    await second.start()
    await second.control_plane.until_phase("r1", "ready")

    assert len(hub.asked_for(resolved("model.safetensors"))) == 2
    assert second.weights.origin(REF) == "hf"


async def test_a_peer_whose_bytes_differ_is_left_for_the_source(first, second, relay, hub):
    checksum = await _name(first, second, relay)
    (first.weights.present(REF) / "model.safetensors").write_bytes(TENSORS[::-1])

    await second.control_plane.cache(_item(REF))
    await second.start()
    brought = await _told(second, CacheState.PRESENT)

    assert (await _checksum(second), brought.origin) == (checksum, "hf")
    assert (second.weights.present(REF) / "model.safetensors").read_bytes() == TENSORS
    assert len(hub.asked_for(resolved("model.safetensors"))) == 2


async def test_without_peer_or_source_it_says_why_and_tries_again(first, second, relay, hub):
    checksum = await _name(first, second, relay)
    hub.items.clear()
    (first.weights.present(REF) / "model.safetensors").unlink()

    await second.control_plane.cache(_item(REF))
    await second.start()
    failed = await _told(second, CacheState.FAILED)
    lay_out(hub)
    await _told(second, CacheState.PRESENT)

    assert "404" in failed.reason
    assert await _checksum(second) == checksum


async def test_a_host_that_was_killed_in_a_copy_goes_on_where_it_stopped(
    first, second, relay, lent
):
    checksum = await _name(first, second, relay)
    work = second.weights.cache_dir / "work" / REF.key / "from-peer"
    work.mkdir(parents=True)
    (work / "model.safetensors.partial").write_bytes(TENSORS[:400_000])

    await second.control_plane.cache(_item(REF))
    await second.start()
    await _told(second, CacheState.PRESENT)

    assert await _checksum(second) == checksum
    assert len(TENSORS) - 400_000 <= sum(lent) < len(TENSORS)
