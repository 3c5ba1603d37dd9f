"""The cap on what all downloads of an agent bring together."""

import pytest

from agents import settings
from agents.settings import UsageError
from agents.weights import download
from agents.weights.download import Throttle
from tests.agents.weights.test_hub import REF, TENSORS, lay_out


class Clock:
    """A time that only rests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    async def rest(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throttle(clock):
    return Throttle(lambda: clock.now, clock.rest)


async def test_without_a_cap_nobody_waits(throttle, clock):
    await throttle.take(1 << 40)

    assert clock.now == 1000


async def test_bytes_take_the_time_that_the_cap_gives_them(throttle, clock):
    throttle.bytes_per_second = 100

    for _ in range(5):
        await throttle.take(50)

    assert clock.now == pytest.approx(1002.5)


async def test_a_pause_saves_nothing_up(throttle, clock):
    throttle.bytes_per_second = 100
    await throttle.take(100)
    clock.now += 60

    await throttle.take(200)

    assert clock.now == pytest.approx(1063)


async def test_two_downloads_share_it(clock):
    asked: list[float] = []

    async def rest(seconds: float) -> None:
        asked.append(seconds)

    shared = Throttle(lambda: clock.now, rest)
    shared.bytes_per_second = 100
    await shared.take(100)
    await shared.take(100)

    assert asked == pytest.approx([1.0, 2.0])


async def test_a_fetch_is_held_to_it_and_brings_every_byte(
    shelf, store, told, throttle, clock, monkeypatch
):
    lay_out(shelf)
    throttle.bytes_per_second = 100_000
    monkeypatch.setattr(download, "THROTTLE", throttle)

    folder = await store.ensure(REF, told.append)

    assert (folder / "model.safetensors").read_bytes() == TENSORS
    assert clock.now - 1000 >= len(TENSORS) / 100_000


@pytest.mark.parametrize("text", ["fast", "-1", "1.5", ""])
def test_a_cap_that_is_no_whole_number_is_refused_by_its_name(text):
    given = ["--control-plane", "http://cp:8000", "--data-dir", "/d"]

    with pytest.raises(UsageError, match="HEARTH_FETCH_BYTES_PER_SECOND"):
        settings.read(given, {"HEARTH_FETCH_BYTES_PER_SECOND": text})
