"""A whole agent in the test's own loop: real supervisors, store, journal and link, fakes outside.

`AgentHost` keeps what outlives an agent (the folder, the runtime with its engines, the control
plane), so that a test can kill the agent at any point and start another.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from agents.agent import Agent, Parts
from agents.engines.base import Engine
from agents.inventory import Gpus, Host
from agents.journal import Journal
from agents.link import Link
from agents.relay.keeper import RelayKeeper, RelayPlan
from agents.settings import Policy, Settings
from agents.sight import Sight
from agents.store import Store, make_run_root, open_store
from tests.agents.control_plane import CREDENTIAL, DEADLINE_SECONDS, HOST_ID, ControlPlane
from tests.agents.fakes import FakeEngine, FakeRuntime, FakeWeights


class StillRelay(RelayKeeper):
    """A relay keeper that starts no process: the relay has tests of its own."""

    @property
    def url(self) -> str:
        return "http://relay:1"

    async def run(self) -> None:
        await asyncio.Event().wait()


class AgentHost:
    engine: Engine = FakeEngine()
    command: tuple[str, ...] = ("engine",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = FakeRuntime()
        self.weights = FakeWeights(folder)
        self.gpus = Gpus()
        self.control_plane = ControlPlane()
        self.skew_seconds = 0.0
        """Added to both of the agent's clocks: raise it to let time pass."""
        self._epoch = time.time() - asyncio.get_running_loop().time()
        self.runtime.now = self.now
        self.agent: Agent | None = None
        self._task: asyncio.Task[None] | None = None
        self._store: Store | None = None
        self._link: Link | None = None

    def now(self) -> float:
        """Return the host's wall clock, which goes as fast as the loop."""
        return asyncio.get_running_loop().time() + self._epoch + self.skew_seconds

    async def start(self) -> None:
        """Start an agent, as after a restart of its program."""
        settings = Settings(command="run", data_dir=self.folder)
        self._store = store = open_store(self.folder)
        transport = httpx.ASGITransport(app=self.control_plane)
        self._link = link = Link("http://control-plane", CREDENTIAL, transport)
        parts = Parts(
            host_id=HOST_ID,
            run_root=make_run_root(settings),
            policy=Policy(weights_roots=(self.folder,)),
            store=store,
            journal=Journal(store.journal_path),
            link=link,
            sight=Sight(HOST_ID, [self.runtime]),
            host=Host(self.folder, self.gpus, self.runtime.kind, "the test says so"),
            relay=StillRelay(RelayPlan(data_dir=self.folder)),
            weights=self.weights,
            compile_root=self.folder / "compiled",
            engine=lambda _kind: self.engine,
            engine_command=lambda _kind, _device: self.command,
            engine_versions=lambda: {"vllm": "1.2.3"},
            now=self.now,
            monotonic=lambda: asyncio.get_running_loop().time() + self.skew_seconds,
        )
        self.agent = Agent(parts)
        self._task = asyncio.create_task(self.agent.run())

    async def kill(self) -> None:
        """End the agent with no chance to tidy up: nothing but the disk and the engines stay."""
        assert self._task is not None
        self._task.cancel()
        await self.ended()

    async def restart(self) -> None:
        """Kill the agent and start the next one."""
        await self.kill()
        await self.start()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds`, something that no report tells."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not holds():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.1)

    async def ended(self) -> BaseException | None:
        """Wait until the agent has ended; return what ended it, None if it was cancelled."""
        assert self._task is not None
        assert self._link is not None
        assert self._store is not None
        await asyncio.wait({self._task}, timeout=DEADLINE_SECONDS)
        assert self._task.done()
        task, self._task = self._task, None
        await self._link.close()
        self._store.close()
        return None if task.cancelled() else task.exception()

    async def close(self) -> None:
        if self._task is not None:
            await self.kill()
        await self.runtime.close()
