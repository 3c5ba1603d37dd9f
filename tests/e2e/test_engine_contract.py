"""The real vLLM keeps the contract that the simulator keeps: what holds here holds there."""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from agents.engines.base import Place
from agents.engines.environment import Environment
from agents.engines.vllm import VllmEngine
from agents.runtimes.process import ProcessRuntime
from agents.wire import (
    DesiredPhase,
    EngineKind,
    EngineSettings,
    EngineSpec,
    ReplicaOrder,
    RuntimeKind,
)
from tests.contract.engine_contract import EngineContract, EngineUnderTest
from tests.e2e.engine_host import (  # noqa: F401
    SMOLLM2,
    engine_environment,
    smollm2,
    weights,
)
from tests.gateway import client
from tests.gateway.exact import blocks_of, cached, exact
from tests.gateway.harness import until

MODEL = "smollm2"
BLOCK_TOKENS = 32
START_SECONDS = 240.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.5
ANSWER_SECONDS = 60.0
"""For a prompt of 500 tokens, read on two loaded cores."""

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def _order() -> ReplicaOrder:
    settings = EngineSettings(
        max_model_len=2048,
        max_num_seqs=8,
        kv_cache_bytes=128 * 1024 * 1024,
        block_size=BLOCK_TOKENS,
        enforce_eager=True,
        kv_events=True,
    )
    spec = EngineSpec(
        engine=EngineKind.VLLM, weights=SMOLLM2, served_names=(MODEL,), settings=settings
    )
    return ReplicaOrder(
        replica_id="contract",
        deployment="contract",
        generation=1,
        desired=DesiredPhase.RUNNING,
        spec=spec,
        stop_grace_seconds=STOP_SECONDS,
    )


@pytest.fixture(scope="module")
def socket(
    engine_environment: Environment,  # noqa: F811
    smollm2: Path,  # noqa: F811
    tmp_path_factory,
) -> Iterator[Path]:
    """The socket of a vLLM that runs for the module, with its development endpoints."""
    folder = tmp_path_factory.mktemp("vllm")
    place = Place(
        host_id="contract",
        runtime=RuntimeKind.PROCESS,
        weights_dir=smollm2,
        run_dir=folder / "run",
        engine_command=engine_environment.command,
        image="",
    )
    launch = VllmEngine().launch(_order(), place)
    launch = dataclasses.replace(launch, env=launch.env | {"VLLM_SERVER_DEV_MODE": "1"})
    runtime = ProcessRuntime(folder / "state", _is_here)
    instance = asyncio.run(runtime.start(launch))
    try:
        _wait_until_ready(place.socket, lambda: asyncio.run(runtime.log_tail(instance, 50)))
        yield place.socket
    finally:
        asyncio.run(runtime.stop(instance, STOP_SECONDS))


async def _is_here(*_: object) -> str:
    return "0.32.0"


def _wait_until_ready(socket: Path, log_tail) -> None:
    pause = threading.Event()
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            try:
                client.get("http://engine/health").raise_for_status()
            except httpx.HTTPError:
                pause.wait(POLL_SECONDS)
            else:
                return
    raise AssertionError("vLLM did not start:\n" + "\n".join(log_tail()))


class TestVllm(EngineContract):
    @pytest.fixture
    async def engine(self, socket: Path) -> AsyncIterator[EngineUnderTest]:
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=60.0
        ) as client:
            yield EngineUnderTest(
                client=client, model=MODEL, block_tokens=BLOCK_TOKENS, has_dev_mode=True
            )


class TestKvEvents:
    """The gateway's exact mode with the real engine's events."""

    async def test_the_gateway_knows_what_the_engine_holds_and_what_it_dropped(
        self, socket: Path, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(client, "DEADLINE_SECONDS", ANSWER_SECONDS)
        words = "a gateway should know what its engines hold in their caches, and no more; " * 30
        chat = {"model": "m", "messages": [{"role": "user", "content": words}], "max_tokens": 3}
        asked = blocks_of(chat, MODEL)
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with (
            httpx.AsyncClient(
                transport=transport, base_url="http://engine", timeout=ANSWER_SECONDS
            ) as engine,
            exact(tmp_path, socket.parent, model=MODEL) as gw,
        ):
            await gw.chat(chat)
            again = await gw.chat(chat)
            await engine.post("/reset_prefix_cache")
            await engine.post(  # events go out with the next step
                "/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 1}
            )
            await until(lambda: not any(gw.deployment.prefixes.match(asked).values()), 20.0)
            late = await gw.chat(chat)

        details = [a.json["usage"]["prompt_tokens_details"]["cached_tokens"] for a in (again, late)]
        assert details[0] > 300
        assert cached(again) == pytest.approx(details[0], abs=2 * 128)
        assert (cached(late), details[1]) == (0, 0)
