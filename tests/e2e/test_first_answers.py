"""The real engine's first answers: a KV-cache type that lies does not get to serve. One agent, a
real vLLM process; its control plane is the test."""

import asyncio

import msgspec
import pytest

from agents.engines.vllm import VllmEngine
from agents.runtimes.process import ProcessRuntime
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
from tests.e2e.engine_host import SMOLLM2

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

READY_SECONDS = 240.0


@pytest.fixture
async def host(engine_environment, weights, tmp_path):
    """An agent whose engine takes methods that its device is known to fail at."""

    async def bring(engine, device, tell):
        return engine_environment.version

    made = AgentHost(tmp_path)
    made.engine = VllmEngine(checks_support=False)
    made.command = engine_environment.command
    made.runtime = ProcessRuntime(tmp_path / "processes", bring)
    made.weights = weights
    yield made
    await made.kill()
    for instance in await made.runtime.find():
        await made.runtime.remove(await made.runtime.stop(instance, 3.0))


async def outcome(host: AgentHost, weights: WeightsRef, **settings) -> ReplicaReport:
    """Serve `weights` with `settings` and return the report that it ends with."""
    spec = EngineSpec(
        engine=EngineKind.VLLM,
        weights=weights,
        served_names=("m",),
        settings=EngineSettings(
            max_model_len=512, max_num_seqs=4, enforce_eager=True, kv_cache_bytes=64 << 20,
            **settings,
        ),
    )  # fmt: skip
    order = ReplicaOrder(
        replica_id="r1", deployment="d", generation=1, desired=DesiredPhase.RUNNING, spec=spec
    )
    await host.control_plane.order(order)
    await host.start()
    seen = host.control_plane.replicas
    report = await _until(seen, "ready", "failed")
    gone = msgspec.structs.replace(order, generation=2, desired=DesiredPhase.ABSENT)
    await host.control_plane.order(gone)
    await _until(seen, "stopped")
    return report


async def _until(seen: dict[str, ReplicaReport], *phases: str) -> ReplicaReport:
    """Return the report of the replica once it is in one of `phases`."""
    async with asyncio.timeout(READY_SECONDS):
        while "r1" not in seen or seen["r1"].phase not in phases:  # noqa: ASYNC110 - another task's
            await asyncio.sleep(0.5)
    return seen["r1"]


async def test_a_kv_cache_type_that_lies_is_caught_before_it_serves(host):
    report = await outcome(host, SMOLLM2, kv_cache_dtype="turboquant_4bit_nc")

    assert (report.phase, report.code) == ("failed", "bad_answers")
    assert "the answers make no sense: perplexity" in report.reason
    assert report.answers.perplexity > 1000
