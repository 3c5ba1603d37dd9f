"""The relay as a process: started detached, adopted, replaced, ended."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agents.relay.files import Running, read_running, write_running
from agents.relay.keeper import RelayKeeper, RelayPlan, stop_relay

DEADLINE_SECONDS = 20.0


class Kept:
    """The keepers of one folder, one at a time, as agents come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moved = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.keeper: RelayKeeper | None = None

    async def start(self, plan: RelayPlan | None = None) -> Running:
        """Start a keeper and return the relay that it settles on."""
        self.keeper = RelayKeeper(plan or RelayPlan(data_dir=self.folder))
        self.moved.clear()
        self.keeper.on_move = self.moved.set
        self.task = asyncio.create_task(self.keeper.run())
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.moved.wait()
        return self.running()

    def running(self) -> Running:
        found = read_running(self.folder)
        assert found is not None
        return found

    async def leave(self) -> None:
        """End the keeper as a killed agent does."""
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task


def pss_kilobytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.partition("\nPss:")[2].split()[0])


async def gone(running: Running) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while running.is_alive():  # noqa: ASYNC110 - a process of nobody tells nobody
            await asyncio.sleep(0.02)


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    made = Kept(tmp_path)
    yield made
    await made.leave()
    running = read_running(tmp_path)
    if running is not None and running.is_alive():
        os.kill(running.pid, signal.SIGKILL)


class TestTheRelay:
    async def test_listens_where_its_keeper_says(self, kept: Kept) -> None:
        await kept.start()
        assert kept.keeper is not None

        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{kept.keeper.url}/healthz")

        assert answer.json()["pid"] == kept.running().pid

    async def test_is_small(self, kept: Kept) -> None:
        running = await kept.start()

        assert pss_kilobytes(running.pid) <= 20 * 1024

    async def test_outlives_its_agent_and_is_adopted_by_the_next(self, kept: Kept) -> None:
        first = await kept.start()
        await kept.leave()

        second = await kept.start()

        assert second == first

    async def test_is_replaced_on_the_same_port_when_it_died(self, kept: Kept) -> None:
        first = await kept.start()
        await kept.leave()
        os.kill(first.pid, signal.SIGKILL)
        await gone(first)

        second = await kept.start()

        assert second.pid != first.pid
        assert second.port == first.port

    async def test_is_replaced_when_its_code_is_older(self, kept: Kept) -> None:
        first = await kept.start()
        await kept.leave()
        write_running(kept.folder, replace(first, version="older"))

        second = await kept.start()

        assert (second.port, second.version) == (first.port, first.version)
        await gone(first)

    async def test_is_never_a_process_that_only_has_its_number(self, kept: Kept) -> None:
        write_running(kept.folder, Running(os.getpid(), "127.0.0.1", 1, "whatever"))

        second = await kept.start()

        assert second.pid != os.getpid()

    async def test_keeps_its_routes_while_no_agent_runs(self, kept: Kept) -> None:
        await kept.start()
        assert kept.keeper is not None
        kept.keeper.set_routes({"r1": "unix:/x"})
        kept.keeper.set_keys(("digest",))
        await kept.leave()

        await kept.start()

        config = json.loads((kept.folder / "relay.json").read_bytes())
        assert config["routes"] == {"r1": "unix:/x"}
        assert config["keys"] == ["digest"]

    async def test_is_known_by_its_public_address(self, kept: Kept) -> None:
        await kept.start(RelayPlan(data_dir=kept.folder, public_url="https://gpu-1.lan:8443"))

        assert kept.keeper is not None
        assert kept.keeper.url == "https://gpu-1.lan:8443"

    async def test_ends_when_told(self, kept: Kept) -> None:
        running = await kept.start()
        await kept.leave()

        assert stop_relay(kept.folder)

        await gone(running)
        assert not stop_relay(kept.folder)
