"""`python -m agents` as a program: real process runtime, real relay, the simulator as engine."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from agents.relay.files import read_running
from agents.wire import (
    DesiredPhase,
    EngineKind,
    EngineSpec,
    ReplicaOrder,
    SimulatorSettings,
    WeightsRef,
)
from tests.agents.control_plane import TOKEN, ControlPlane

ROOT = Path(__file__).parents[2]
REPLICA = "0b0f2d5e-0000-4000-8000-000000000001"
END_SECONDS = 20.0
KEY = "relay-key"


def order(generation: int = 1, desired: DesiredPhase = DesiredPhase.RUNNING) -> ReplicaOrder:
    spec = EngineSpec(
        engine=EngineKind.SIMULATOR,
        weights=WeightsRef(key="m", source="wheel:m==1:m"),
        served_names=("m",),
        simulator=SimulatorSettings(load_seconds=0.1),
    )
    return ReplicaOrder(
        replica_id=REPLICA, deployment="d", generation=generation, desired=desired, spec=spec,
        stop_grace_seconds=2.0,
    )  # fmt: skip


class Machine:
    """One agent folder, and the control plane on a Unix socket beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "agent"
        self.control_plane = ControlPlane()
        self.control_plane.keys = (hashlib.sha256(KEY.encode()).hexdigest(),)
        self.agents: list[asyncio.subprocess.Process] = []
        config = uvicorn.Config(
            self.control_plane, uds=str(folder / "cp.sock"), log_level="warning", lifespan="off"
        )
        self.server = uvicorn.Server(config)
        self.serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self.serving = asyncio.create_task(self.server.serve())
        while not self.server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)

    async def agent(self, *more: str) -> asyncio.subprocess.Process:
        """Start an agent program."""
        process = await self._program(
            "--control-plane", f"unix:{self.folder}/cp.sock", "--name", "box",
            "--runtime", "process", *more,
        )  # fmt: skip
        self.agents.append(process)
        return process

    async def drain_and_stop(self) -> tuple[int, str]:
        return await ended(await self._program("drain-and-stop"))

    async def _program(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agents", "--data-dir", str(self.data), *words,
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HEARTH_ENGINE_DIR": str(self.folder / "engines")},
        )  # fmt: skip

    async def serve(self, *more: str) -> tuple[asyncio.subprocess.Process, int]:
        """Start an agent with one replica; return it and the engine's process id when ready."""
        await self.control_plane.order(order())
        process = await self.agent("--join-token", TOKEN, *more)
        return process, await self.until_ready()

    async def until_ready(self) -> int:
        report = await self.control_plane.until_phase(REPLICA, "ready")
        return int(report.runtime_ref)

    async def close(self) -> None:
        for process in self.agents:
            if process.returncode is None:
                process.kill()
                await process.wait()
        running = read_running(self.data)
        if any((self.data / "process").glob("*")):
            await self.drain_and_stop()
        elif running is not None and running.is_alive():
            os.kill(running.pid, signal.SIGKILL)
        self.server.should_exit = self.server.force_exit = True
        assert self.serving is not None
        await self.serving


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait for the end of a program; return its exit code and all it said."""
    async with asyncio.timeout(END_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out + err).decode()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path)
    await made.open()
    yield made
    await made.close()


class TestTheProgram:
    async def test_leaves_its_replicas_and_adopts_them_without_a_token(
        self, machine: Machine
    ) -> None:
        first, engine_pid = await machine.serve()
        first.send_signal(signal.SIGTERM)
        asked_at = time.monotonic()
        code, said = await ended(first)

        assert code == 0
        assert time.monotonic() - asked_at < 3.0
        assert "1 replica in processes keeps serving" in said
        assert is_alive(engine_pid)

        await machine.agent()
        await machine.control_plane.until(lambda: machine.control_plane.epoch == 2)
        await machine.control_plane.until_reports(2)

        assert await machine.until_ready() == engine_pid

    async def test_serves_through_the_relay_while_killed(self, machine: Machine) -> None:
        agent, _ = await machine.serve()
        control_plane = machine.control_plane
        await control_plane.until(lambda: bool(control_plane.replicas[REPLICA].endpoint.relay_url))
        url = control_plane.replicas[REPLICA].endpoint.relay_url
        agent.kill()
        await agent.wait()

        async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            answer = await client.post(f"{url}/v1/chat/completions", json=body, timeout=20)
            admin = await client.post(f"{url}/sleep")

        assert answer.status_code == 200
        assert answer.json()["choices"]
        assert admin.status_code == 404

    async def test_stops_its_processes_where_that_is_wished(self, machine: Machine) -> None:
        agent, engine_pid = await machine.serve("--stop-replicas", "process")
        relay = read_running(machine.data)

        agent.send_signal(signal.SIGINT)
        code, _ = await ended(agent)

        assert code == 0
        assert not is_alive(engine_pid)
        assert relay is not None
        await asyncio.to_thread(_wait_until_gone, relay.pid)

        await machine.agent()  # the order stands, so the next start brings it back
        await machine.control_plane.until(lambda: machine.control_plane.epoch == 2)
        await machine.control_plane.until_phase(REPLICA, "starting")
        assert await machine.until_ready() != engine_pid

    async def test_is_alone_in_its_folder(self, machine: Machine) -> None:
        _, engine_pid = await machine.serve()

        second, down = await asyncio.gather(ended(await machine.agent()), machine.drain_and_stop())

        assert (second[0], down[0]) == (2, 2)
        assert "another agent runs" in second[1]
        assert is_alive(engine_pid)

    async def test_ends_with_a_clear_line_when_fenced_and_drains_when_told(
        self, machine: Machine
    ) -> None:
        agent, engine_pid = await machine.serve()

        machine.control_plane.epoch += 1
        code, said = await ended(agent)

        assert code == 3
        assert "another agent acts for this host now" in said
        assert is_alive(engine_pid)

        code, said = await machine.drain_and_stop()

        assert (code, said.strip()) == (0, "1 replica stopped")
        assert not is_alive(engine_pid)


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + END_SECONDS
    while is_alive(pid):
        assert time.monotonic() < deadline
        os.sched_yield()
