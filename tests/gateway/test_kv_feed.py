"""The exact mode end to end: engines' events over ZeroMQ, gaps, silence, and the way back."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.simulator.kv_events import KvEventsConfig, Publisher
from gateway import kv_feed
from gateway.kv_feed import Feed
from gateway.residency import Residency
from gateway.wire import KvEvents
from tests.gateway.exact import addresses, blocks_of, cached, exact
from tests.gateway.harness import PATH, until
from tests.simulator_host import MODEL, Simulator
from tests.simulator_host import running as simulating

KV_TOKENS = 4096


@pytest.fixture
def short_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kv")


@pytest.fixture(autouse=True)
def _short_periods(monkeypatch):
    monkeypatch.setattr(kv_feed, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(kv_feed, "REPLAY_SECONDS", 0.5)
    monkeypatch.setattr(kv_feed, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(kv_feed, "LOOK_SECONDS", 0.02)


class Heard(Residency):
    """A residency that shows what it was told."""

    def is_complete(self) -> bool:
        return "r" in self._holdings and self._holdings["r"].is_complete

    def held(self) -> int:
        return len(self._holdings["r"].counts) if "r" in self._holdings else -1


class Engine:
    """A publisher whose batches a test decides, and may lose."""

    def __init__(self, folder: Path, *, buffer_steps: int = 100) -> None:
        config = KvEventsConfig(True, buffer_steps=buffer_steps, **addresses(folder))
        self.publisher = Publisher(config)
        self.stored = 0

    def store(self, *, lost: bool = False) -> None:
        event = {
            "type": "BlockStored",
            "block_hashes": [self.stored],
            "parent_block_hash": None,
            "token_ids": [self.stored] * 16,
            "block_size": 16,
        }
        self.stored += 1
        live = self.publisher._events
        if lost:
            self.publisher._events = _Nowhere()
        self.publisher.publish(1.0, [event])
        self.publisher._events = live

    async def stop(self) -> None:
        self.publisher._task.cancel()
        await asyncio.gather(self.publisher._task, return_exceptions=True)
        self.publisher._events.close()
        self.publisher._replay.close()


class _Nowhere:
    def send_multipart(self, _parts: list[bytes]) -> None:
        """What the network loses."""


@contextlib.asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[Heard]:
    heard = Heard()
    feed = asyncio.create_task(Feed(heard, "r", KvEvents(**addresses(folder))).run())
    try:
        yield heard
    finally:
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)


class TestFeed:
    async def test_learns_what_was_stored_before_it_came_and_after(self, short_folder):
        engine = Engine(short_folder)
        engine.store()
        async with listening(short_folder) as heard:
            await until(heard.is_complete)
            engine.store()
            await until(lambda: heard.held() == 2)
        await engine.stop()

    async def test_asks_for_what_a_gap_lost(self, short_folder):
        engine = Engine(short_folder)
        async with listening(short_folder) as heard:
            await until(heard.is_complete)
            engine.store(lost=True)
            engine.store(lost=True)
            engine.store()

            await until(lambda: heard.held() == 3)
            assert heard.is_complete()
        await engine.stop()

    async def test_finds_lost_batches_when_nothing_more_comes(self, short_folder):
        engine = Engine(short_folder)
        async with listening(short_folder) as heard:
            await until(heard.is_complete)
            engine.store(lost=True)

            await until(lambda: heard.held() == 1)
        await engine.stop()

    async def test_never_trusts_what_it_cannot_know_whole(self, short_folder):
        engine = Engine(short_folder, buffer_steps=2)
        for _ in range(5):
            engine.store()
        async with listening(short_folder) as heard:
            await until(lambda: heard.held() == 2)
            engine.store()
            await until(lambda: heard.held() == 3)
            assert not heard.is_complete()

            engine.publisher.publish(1.0, [{"type": "AllBlocksCleared"}])
            await until(heard.is_complete)
        await engine.stop()

    async def test_gives_up_on_an_engine_that_falls_silent_and_comes_back(self, short_folder):
        engine = Engine(short_folder)
        engine.store()
        async with listening(short_folder) as heard:
            await until(heard.is_complete)
            await engine.stop()
            await until(lambda: not heard.is_complete())

            again = Engine(short_folder)
            await until(heard.is_complete)
            assert heard.held() == 0
            await again.stop()


def simulator(folder: Path) -> contextlib.AbstractContextManager[Simulator]:
    config = json.dumps({"enable_kv_cache_events": True, **addresses(folder)})
    sizes = (f"--kv-cache-tokens={KV_TOKENS}", "--max-model-len=2048")
    return simulating(folder, f"--kv-events-config={config}", *sizes)


def chat(words: bytes) -> dict:
    content = (words * 80).decode()[:4000]
    return {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 2}


class TestWithSimulators:
    async def test_what_an_engine_evicted_counts_no_more(self, tmp_path, short_folder):
        one = chat(b"once upon a time there was a gateway ")
        with simulator(short_folder):
            async with exact(tmp_path, short_folder, model=MODEL) as gw:
                await gw.chat(one)
                again = await gw.chat(one)
                for number in range(12):
                    await gw.chat(chat(b"other words, number %d of many, " % number))
                late = await gw.chat(one)

                assert cached(again) > 600
                assert cached(late) == 0
                assert late.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0

    async def test_what_came_by_another_way_is_found(self, tmp_path, tmp_path_factory):
        folders = [tmp_path_factory.mktemp("kv"), tmp_path_factory.mktemp("kv")]
        one = chat(b"a text that both replicas get to know ")
        with simulator(folders[0]), simulator(folders[1]) as second:
            async with exact(tmp_path, *folders, model=MODEL) as gw:
                first = await gw.chat(one)
                if first.headers["x-hearth-replica"] == folders[1].name:
                    second = None  # the other one is the first
                await _bring(second, folders, {**one, "model": MODEL})

                blocks = blocks_of(one, MODEL)
                await until(lambda: min(gw.deployment.prefixes.match(blocks).values()) > 4)
                depths = gw.deployment.prefixes.match(blocks)

                assert depths[folders[0].name] == pytest.approx(depths[folders[1].name], abs=0.5)


async def _bring(second: Simulator | None, folders: list[Path], body: dict) -> None:
    """Send `body` to the replica that the gateway did not choose, past the gateway."""
    other = second or Simulator(None, folders[0] / "engine.sock", folders[0] / "engine.log")
    async with other.client() as client:
        answer = await client.post(PATH, json=body)
        assert answer.status_code == 200
