"""Sleep and wake against real simulator processes, with the memory that they really hold."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from agents.engines import sleep_api
from agents.sleeper import CannotSleep, SleepBroke, Sleeper, level_for
from agents.wire import EngineSpec, ReplicaOrder, WeightsRef
from tests.agents.fakes import order
from tests.simulator_host import MODEL, Simulator, running

HELD_BYTES = 64 << 20


def sleepable(can_sleep: bool = True, start_timeout_seconds: float = 5.0) -> ReplicaOrder:
    spec = msgspec.structs.replace(
        order().spec,
        served_names=(MODEL,),
        can_sleep=can_sleep,
        start_timeout_seconds=start_timeout_seconds,
    )
    return msgspec.structs.replace(order(), spec=spec)


@contextmanager
def engine(folder: Path, *flags: str) -> Iterator[Simulator]:
    with running(folder, f"--memory-bytes={HELD_BYTES}", *flags) as simulator:
        yield simulator


@asynccontextmanager
async def sleeper(
    simulator: Simulator, folder: Path, wish: ReplicaOrder | None = None
) -> AsyncIterator[Sleeper]:
    async def held_bytes() -> int:
        return int(psutil.Process(simulator.process.pid).memory_info().rss)

    async with simulator.client() as client:
        yield Sleeper(
            order=wish or sleepable(),
            client=client,
            run_dir=folder,
            held_bytes=held_bytes,
            monotonic=time.monotonic,
        )


async def until_busy(nap: Sleeper) -> None:
    """Wait until the engine runs something."""
    for _ in range(500):
        if await sleep_api.in_flight(nap.client):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing came in flight")


class TestSleeping:
    @pytest.mark.parametrize("level", [1, 2])
    async def test_gives_back_what_was_measured_and_answers_the_same_token_afterwards(
        self, tmp_path: Path, level: int
    ) -> None:
        with engine(tmp_path) as simulator:
            async with sleeper(simulator, tmp_path) as nap:
                measured = await nap.lie_down(level)
                asleep = await nap.is_asleep()
                await nap.get_up(level)

                assert asleep
                assert not await nap.is_asleep()
        assert measured.held_bytes - measured.residual_bytes > 0.9 * HELD_BYTES
        assert measured.level == level

    async def test_is_refused_and_undone_where_nothing_comes_free(self, tmp_path: Path) -> None:
        with engine(tmp_path, "--fail=sleep_keeps_memory") as simulator:
            async with sleeper(simulator, tmp_path) as nap:
                with pytest.raises(CannotSleep, match="frees nothing") as refusal:
                    await nap.lie_down(1)

                assert refusal.value.code == "cannot_sleep"
                assert not await nap.is_asleep()

    async def test_is_refused_of_an_engine_that_was_started_without_it(
        self, tmp_path: Path
    ) -> None:
        with engine(tmp_path) as simulator:
            async with sleeper(simulator, tmp_path, sleepable(can_sleep=False)) as nap:
                with pytest.raises(CannotSleep) as refusal:
                    await nap.lie_down(1)

        assert refusal.value.code == "sleep_off"

    async def test_waits_for_what_is_in_flight(self, tmp_path: Path) -> None:
        body = {"model": MODEL, "prompt": "a", "max_tokens": 50, "ignore_eos": True}
        with engine(tmp_path, "--decode-seconds-per-token=0.01") as simulator:
            async with sleeper(simulator, tmp_path) as nap:
                running = asyncio.create_task(nap.client.post("/v1/completions", json=body))
                await asyncio.sleep(0)  # it is on its way before the engine is asked
                await until_busy(nap)
                await nap.lie_down(1)
                answer = (await running).json()

        assert answer["choices"][0]["finish_reason"] == "length"

    async def test_that_fails_says_that_the_engine_must_be_ended(self, tmp_path: Path) -> None:
        with engine(tmp_path, "--fail=sleep_fails") as simulator:
            async with sleeper(simulator, tmp_path) as nap:
                with pytest.raises(SleepBroke, match="answered 500") as fault:
                    await nap.lie_down(1)

        assert fault.value.code == "sleep_failed"


class TestWaking:
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("wake_fails", "answered 500"),
            ("wake_hangs", "not awake within|did not answer"),
            ("wake_garbles", "where it answered"),
        ],
    )
    async def test_is_given_up_when_the_engine_is_not_what_it_was(
        self, tmp_path: Path, fault: str, words: str
    ) -> None:
        wish = sleepable(start_timeout_seconds=0.5 if fault == "wake_hangs" else 60.0)
        with engine(tmp_path, f"--fail={fault}") as simulator:
            async with sleeper(simulator, tmp_path, wish) as nap:
                await nap.lie_down(1)
                with pytest.raises(SleepBroke, match=words) as broken:
                    await nap.get_up(1)

        assert broken.value.code == "wake_failed"


@pytest.mark.parametrize(
    ("device", "weights_bytes", "available_bytes", "level"),
    [
        pytest.param("cuda", 10, 20, 1, id="the host's memory takes the weights"),
        pytest.param("cuda", 10, 10, 2, id="no room for them: dropped"),
        pytest.param("cuda", 0, 0, 1, id="size unknown"),
        pytest.param("cpu", 10, 0, 1, id="they are in the host's memory already"),
    ],
)
def test_the_level_follows_from_the_hosts_memory(
    device: str, weights_bytes: int, available_bytes: int, level: int
) -> None:
    weights = WeightsRef(key="m", source="hf:a/b@main", bytes=weights_bytes)
    spec: EngineSpec = msgspec.structs.replace(order().spec, device=device, weights=weights)
    wish = msgspec.structs.replace(order(), spec=spec)

    assert level_for(wish, available_bytes) == level
