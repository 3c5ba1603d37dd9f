"""The real vLLM in both runtimes: from a launch to a real token, and back to nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from agents.engines.base import Place
from agents.engines.environment import default_root
from agents.engines.vllm import VllmEngine
from agents.runtimes.base import Instance, Runtime
from agents.runtimes.docker import DockerRuntime
from agents.runtimes.process import ProcessRuntime
from agents.wire import (
    DesiredPhase,
    EngineKind,
    EngineSettings,
    EngineSpec,
    ReplicaOrder,
    RuntimeKind,
    Task,
)
from tests.e2e.engine_host import MINILM, SMOLLM2, say

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

READY_SECONDS = 240.0
"""Ten times what a quiet machine of two cores needs."""
LONG_PROMPT = "You are a careful assistant who answers briefly. " * 60 + "Name a colour."
ENGINE = VllmEngine()


@dataclass
class Served:
    """An engine that answered a real token."""

    client: httpx.AsyncClient
    runtime: Runtime
    instance: Instance
    order: ReplicaOrder

    async def ask(self, path: str, **body) -> dict:
        reply = await self.client.post(path, json={"model": "m"} | body, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.json()


def _order(task: Task, weights) -> ReplicaOrder:
    settings = EngineSettings(enforce_eager=True, max_num_seqs=8, omp_threads=1)
    if task is Task.CHAT:
        settings = EngineSettings(
            enforce_eager=True, max_num_seqs=8, max_model_len=2048, kv_cache_bytes=128 << 20
        )
    spec = EngineSpec(
        engine=EngineKind.VLLM,
        task=task,
        weights=weights,
        served_names=("m",),
        settings=settings,
        memory_bytes=6 << 30,
    )
    return ReplicaOrder(
        replica_id="r1", deployment="d", generation=1, desired=DesiredPhase.RUNNING, spec=spec
    )


@asynccontextmanager
async def _serve(runtime: Runtime, order: ReplicaOrder, place: Place) -> AsyncIterator[Served]:
    place.run_dir.mkdir(mode=0o700)
    await runtime.prepare(EngineKind.VLLM, "cpu", place.image, say)
    instance = await runtime.start(ENGINE.launch(order, place))
    transport = httpx.AsyncHTTPTransport(uds=str(place.socket))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            await _until_ready(runtime, instance, order, client)
            yield Served(client, runtime, instance, order)
    finally:
        await runtime.stop(instance, order.stop_grace_seconds)
        await runtime.remove(instance)


async def _until_ready(
    runtime: Runtime, instance: Instance, order: ReplicaOrder, client: httpx.AsyncClient
) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while not await ENGINE.probe(client, order):
            (seen,) = await runtime.find()
            assert seen.running, "\n".join(await runtime.log_tail(instance, 50))
            await asyncio.sleep(0.25)


@pytest.fixture
def process_runtime(engine_environment, tmp_path):
    async def bring(engine, device, tell):
        return engine_environment.version

    return ProcessRuntime(tmp_path / "processes", bring)


@pytest.fixture
def process_place(engine_environment, tmp_path):
    def place(weights_dir: Path) -> Place:
        return Place(
            host_id="h1",
            runtime=RuntimeKind.PROCESS,
            weights_dir=weights_dir,
            run_dir=tmp_path / "run",
            engine_command=engine_environment.command,
            image="",
        )

    return place


async def _check_chat(served: Served) -> None:
    """Ask for a fact, then a long prompt twice: the second time its blocks are cached."""
    question = "What is the capital of France? Answer in one sentence."
    answer = await served.ask("/v1/chat/completions", messages=_user(question), temperature=0)
    first = await served.ask("/v1/chat/completions", messages=_user(LONG_PROMPT), max_tokens=1)
    second = await served.ask("/v1/chat/completions", messages=_user(LONG_PROMPT), max_tokens=1)
    metrics = (await served.client.get("/metrics")).text
    sample = ENGINE.sample("r1", 1.0, metrics)

    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 512
    assert sample.prefix_cache_hits_total >= 512
    assert (sample.running, sample.waiting) == (0, 0)
    assert ENGINE.kv_cache_tokens(metrics) == 5760
    assert await served.runtime.memory_bytes(served.instance) > 500 << 20


async def _check_stages(served: Served) -> None:
    lines = await served.runtime.log_tail(served.instance, 1000)
    told = [mark for line in lines if (mark := ENGINE.read_line(line)) is not None]
    marks = [mark for mark in told if mark.stage]

    assert [mark.stage for mark in marks] == ["import", "load", "load", "warm-up", "warm-up"]
    assert marks[2].seconds is not None
    assert marks[3].kv_cache_tokens == 5760


def _user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


async def test_chat_in_the_process_runtime(process_runtime, process_place, smollm2):
    order, place = _order(Task.CHAT, SMOLLM2), process_place(smollm2)

    async with _serve(process_runtime, order, place) as served:
        await _check_chat(served)
        await _check_stages(served)
        stopped = await process_runtime.stop(served.instance, order.stop_grace_seconds)

    assert stopped.exit_code == 0


async def test_embeddings_in_the_process_runtime(process_runtime, process_place, minilm):
    order, place = _order(Task.EMBED, MINILM), process_place(minilm)

    async with _serve(process_runtime, order, place) as served:
        reply = await served.ask("/v1/embeddings", input=["a dog", "a cat"])

    assert [len(item["embedding"]) for item in reply["data"]] == [384, 384]


@pytest.mark.docker
async def test_chat_in_a_container(
    docker_engine, engine_image, engine_environment, smollm2, tmp_path, monkeypatch
):
    monkeypatch.setenv("DOCKER_HOST", docker_engine.address)
    runtime = DockerRuntime(host_id="h1", engines_root=default_root())
    order = _order(Task.CHAT, SMOLLM2)
    place = Place(
        host_id="h1",
        runtime=RuntimeKind.DOCKER,
        weights_dir=smollm2,
        run_dir=tmp_path / "run",
        engine_command=(),
        image=engine_image,
    )

    async with _serve(runtime, order, place) as served:
        await _check_chat(served)
        await _check_stages(served)
        stopped = await runtime.stop(served.instance, order.stop_grace_seconds)

    assert stopped.exit_code == 0
