"""One agent and one replica of the real engine: ordered, checked, used, and taken away again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents.answers import AnswersBaseline
from agents.engines.environment import Environment
from agents.engines.vllm import VllmEngine
from agents.runtimes.process import ProcessRuntime
from agents.weights.store import Weights
from agents.wire import (
    DesiredPhase,
    EngineKind,
    EngineSettings,
    EngineSpec,
    ReplicaOrder,
    ReplicaReport,
    WeightsRef,
)
from tests.agents.host import AgentHost

READY_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a host of the real engine is made of."""

    folder: Path
    """The agent's; weights by path must lie below it. Short, for the engine's socket."""
    environment: Environment
    weights: Weights
    checks_support: bool = True
    """False takes methods that the device is known to fail at."""


@asynccontextmanager
async def one_replica(
    ground: Ground,
    weights: WeightsRef,
    baseline: AnswersBaseline | None = None,
    **settings: object,
) -> AsyncIterator[ReplicaReport]:
    """Serve `weights` with `settings`; yield the report, `ready` or `failed`."""

    async def bring(*_: object) -> str:
        return ground.environment.version

    host = AgentHost(ground.folder)
    host.engine = VllmEngine(checks_support=ground.checks_support)
    host.command = ground.environment.command
    host.runtime = ProcessRuntime(ground.folder / "processes", bring)
    host.weights = ground.weights
    order = _order(weights, baseline, settings)
    seen = host.control_plane.replicas
    await host.control_plane.order(order)
    await host.start()
    try:
        yield await _until(seen, "ready", "failed")
        gone = msgspec.structs.replace(order, generation=2, desired=DesiredPhase.ABSENT)
        await host.control_plane.order(gone)
        await _until(seen, "stopped")
    finally:
        await host.kill()
        for instance in await host.runtime.find():
            await host.runtime.remove(await host.runtime.stop(instance, 3.0))


def _order(
    weights: WeightsRef, baseline: AnswersBaseline | None, settings: dict[str, object]
) -> ReplicaOrder:
    small = {
        "max_model_len": 512, "max_num_seqs": 4, "enforce_eager": True, "kv_cache_bytes": 64 << 20
    }  # fmt: skip
    spec = EngineSpec(
        engine=EngineKind.VLLM,
        weights=weights,
        served_names=("m",),
        settings=EngineSettings(**small | settings),
    )
    return ReplicaOrder(
        replica_id="r1", deployment="d", generation=1, desired=DesiredPhase.RUNNING, spec=spec,
        answers_baseline=baseline,
    )  # fmt: skip


async def _until(seen: dict[str, ReplicaReport], *phases: str) -> ReplicaReport:
    """Return the report of the replica once it is in one of `phases`."""
    async with asyncio.timeout(READY_SECONDS):
        while "r1" not in seen or seen["r1"].phase not in phases:  # noqa: ASYNC110 - another task's
            await asyncio.sleep(0.5)
    return seen["r1"]
