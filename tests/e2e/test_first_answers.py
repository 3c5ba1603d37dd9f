"""The real engine's first answers: a quantized model that works may follow the live revision, a
KV-cache type that lies may not serve. One agent, real vLLM; its control plane is the test."""

import asyncio
import subprocess
from pathlib import Path

import msgspec
import pytest

from agents.answers import AnswersBaseline
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
from tests.e2e.engine_host import REPOSITORY, SMOLLM2

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

READY_SECONDS = 240.0
LIVE = AnswersBaseline(revision=1, perplexity=8.7)
"""What SmolLM2 shows unquantized."""
LOSS = 1.5
"""What 4-bit weights by plain rounding cost here: 8 bits must cost less."""


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


@pytest.fixture(scope="module")
def w8a8(engine_environment, smollm2, tmp_path_factory) -> Path:
    """SmolLM2 with 8-bit weights and activations, as published checkpoints store them."""
    out = tmp_path_factory.mktemp("quantized") / "w8a8"
    maker = REPOSITORY / "bench" / "quantize.py"
    subprocess.run([engine_environment.python, maker, smollm2, out, "w8a8"], check=True)
    return out


async def outcome(
    host: AgentHost, weights: WeightsRef, baseline: AnswersBaseline | None = None, **settings
) -> ReplicaReport:
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
        replica_id="r1", deployment="d", generation=1, desired=DesiredPhase.RUNNING, spec=spec,
        answers_baseline=baseline,
    )  # fmt: skip
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


async def test_weights_stored_in_8_bits_may_follow_the_revision_without(host, w8a8):
    ref = WeightsRef(key="w8a8", source=f"path:{w8a8}")
    host.folder = w8a8.parent  # the folder from which this host serves weights

    report = await outcome(host, ref, baseline=LIVE)

    assert report.phase == "ready", report.reason
    assert report.answers.perplexity < LOSS * LIVE.perplexity
    assert "Saturday" in report.answers.words
