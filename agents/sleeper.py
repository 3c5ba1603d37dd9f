"""Put an engine to sleep and wake it, and believe only what was measured.

Known faults of vLLM's sleep mode decide the order: memory that is not freed (#32714), a CUDA fault
when requests are still running (#28714), gibberish after level 2 (#29341), a wake-up that hangs
(#50011). So: wait until nothing is in flight, remember one token, sleep, measure what came free;
wake within a deadline, and compare the token. Whoever calls ends an engine that fails here.
Used by `agents.attend`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from agents.engines import sleep_api
from agents.engines.sleep_api import EngineRefused
from agents.wire import Nap, ReplicaOrder

FREED_RATIO = 0.3
"""Of what the engine held, at least so much must come free, or it does not sleep. A real engine
gives back weights and KV cache, four fifths and more; where sleep is only a protocol, nothing."""
SETTLE_SECONDS = 3.0
"""For freed memory to show: drivers and the kernel give it back a moment later."""
IDLE_SECONDS = 20.0
"""For what is still in flight to end by itself; the control plane has drained before."""
_STEP_SECONDS = 0.1
_TOKEN = "first-token"


class CannotSleep(Exception):
    """It is awake (again), and sleeping would save nothing; `code` is a word of ReplicaReport."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class SleepBroke(Exception):
    """The engine is in no state to be used any more: end it. `code` as in ReplicaReport."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Sleeper:
    """Sleep of one running engine, reached through `client`."""

    order: ReplicaOrder
    client: httpx.AsyncClient
    run_dir: Path
    held_bytes: Callable[[], Awaitable[int | None]]
    """Memory that the engine holds now, on its GPUs or, without any, on the host."""
    monotonic: Callable[[], float]

    async def is_asleep(self) -> bool:
        return self.order.spec.can_sleep and await sleep_api.is_asleep(self.client)

    async def lie_down(self, level: int) -> Nap:
        """Put it to sleep and return what was measured.

        Raises CannotSleep, the engine being awake again; SleepBroke if it is neither.
        """
        if not self.order.spec.can_sleep:
            raise CannotSleep("sleep_off", "it was started before its deployment wanted sleepers")
        if self.order.spec.custom is not None:
            raise CannotSleep(
                "cannot_sleep", "an engine that a catalog entry declares has no sleep"
            )
        await self._until_idle()
        token = await sleep_api.first_token(self.client, self.order)
        await asyncio.to_thread((self.run_dir / _TOKEN).write_text, token)
        held = await self.held_bytes()
        if not held:
            raise CannotSleep("cannot_sleep", "the memory that it holds cannot be measured here")
        began = self.monotonic()
        await self._sleep(level)
        residual = await self._settled(held)
        nap = Nap(
            level=level,
            held_bytes=held,
            residual_bytes=residual,
            seconds=round(self.monotonic() - began, 3),
        )
        if held - residual < FREED_RATIO * held:
            await self.get_up(level)
            raise CannotSleep("cannot_sleep", _nothing_freed(nap))
        return nap

    async def get_up(self, level: int) -> None:
        """Wake it and hear one token. Raises SleepBroke(`wake_failed`)."""
        deadline = self.order.spec.start_timeout_seconds
        try:
            async with asyncio.timeout(deadline):
                await sleep_api.wake(self.client, level, deadline)
                token = await sleep_api.first_token(self.client, self.order)
        except TimeoutError:
            raise SleepBroke("wake_failed", f"not awake within {deadline:.0f} s") from None
        except EngineRefused as fault:
            raise SleepBroke("wake_failed", str(fault)) from fault
        expected = await asyncio.to_thread(_read, self.run_dir / _TOKEN)
        if expected and token != expected:
            raise SleepBroke(
                "wake_failed", f"it answers {token!r} where it answered {expected!r} before"
            )

    async def _sleep(self, level: int) -> None:
        try:
            await sleep_api.sleep(self.client, level)
        except EngineRefused as fault:
            raise SleepBroke("sleep_failed", str(fault)) from fault

    async def _until_idle(self) -> None:
        deadline = self.monotonic() + IDLE_SECONDS
        while self.monotonic() < deadline:
            if not await sleep_api.in_flight(self.client):
                return
            await asyncio.sleep(_STEP_SECONDS)

    async def _settled(self, held: int) -> int:
        """Return what it still holds, once enough came free or SETTLE_SECONDS have passed."""
        deadline = self.monotonic() + SETTLE_SECONDS
        while True:
            residual = await self.held_bytes()
            residual = held if residual is None else residual
            if held - residual >= FREED_RATIO * held or self.monotonic() > deadline:
                return residual
            await asyncio.sleep(_STEP_SECONDS)


def level_for(order: ReplicaOrder, available_bytes: int) -> int:
    """Return how deep a GPU engine sleeps: 2 where the host's memory cannot take its weights."""
    needs_room = order.spec.device == "cuda" and order.spec.weights.bytes > 0
    return 2 if needs_room and available_bytes < 1.1 * order.spec.weights.bytes else 1


def _nothing_freed(nap: Nap) -> str:
    mib = 1024**2
    return (
        f"asleep it still held {nap.residual_bytes // mib} of {nap.held_bytes // mib} MiB: "
        "this engine build answers the call and frees nothing"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
