"""The simulated engine in real time: a `Core` driven by the event loop's clock.

It decides nothing about scheduling; it wakes when a step ends, hands tokens to whoever listens,
keeps the metrics, and holds the memory that sleeping frees. All methods are synchronous and
belong to the loop's thread. Called by `generation` and `api`.
"""

import asyncio
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from agents.simulator.core import Core
from agents.simulator.kv_events import CacheTeller
from agents.simulator.metrics import Meters
from agents.simulator.runs import Run


class Listener(Protocol):
    """Who wants to know about a run."""

    def on_token(self, run: Run) -> None:
        """`run` has one more token, and perhaps its outcome."""

    def on_death(self, run: Run) -> None:
        """The engine died under `run`."""


class SleepLevel(IntEnum):
    """What a sleeping engine has given up; vLLM's numbers."""

    PAUSED = 0  # memory kept
    OFFLOADED = 1  # weights in host memory, KV cache dropped
    DISCARDED = 2  # weights dropped too


class Ballast:
    """Memory that stands for weights and KV cache, so that sleeping frees something real."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._held = b""

    def fill(self) -> None:
        # Ones, not zeros: untouched zero pages would take no memory.
        self._held = b"\x01" * self.size_bytes

    def drop(self) -> None:
        self._held = b""


class EngineDead(Exception):
    """The engine died; nothing can be scheduled any more."""


class SimulatedEngine:
    """Runs a `Core` on the running event loop. Times inside are the loop's."""

    def __init__(
        self, core: Core, meters: Meters, ballast: Ballast, teller: CacheTeller | None = None
    ) -> None:
        self.core = core
        self._teller = teller
        self.meters = meters
        self.is_dead = False
        self.level: SleepLevel | None = None
        """Set while asleep."""
        self._ballast = ballast
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._armed_for: float | None = None
        self._listeners: dict[Run, Listener] = {}
        self._on_drained: list[Callable[[], None]] = []

    @property
    def in_flight(self) -> int:
        return len(self._listeners)

    @property
    def is_asleep(self) -> bool:
        return self.level is not None

    def submit(self, run: Run, listener: Listener) -> None:
        """Queue `run`. Raises EngineDead, or ValueError if it can never fit."""
        if self.is_dead:
            raise EngineDead("the engine died")
        self._catch_up()
        self.core.submit(run, self._loop.time())
        self._listeners[run] = listener
        self._arm()

    def abort(self, run: Run) -> None:
        """End `run` without telling its listener."""
        if self._listeners.pop(run, None) is None:
            return
        self._catch_up()
        self.core.abort(run, self._loop.time())
        self._tell_drained()

    def pause(self) -> None:
        """Freeze everything in flight."""
        self._catch_up()
        self.core.pause()
        self._tell()
        self._arm()

    def resume(self) -> None:
        self.core.resume(self._loop.time())
        self._arm()

    def abort_all(self) -> None:
        """End everything in flight as aborted, with what it has."""
        self._catch_up()
        for run, listener in list(self._listeners.items()):
            self.core.abort(run, self._loop.time())
            self.meters.saw_end(run)
            del self._listeners[run]
            listener.on_token(run)
        self._tell_drained()

    def sleep(self, level: SleepLevel, *, keeps_memory: bool = False) -> None:
        """Freeze and give up memory as `level` says, or only say so if it `keeps_memory`."""
        self.pause()
        self.level = level
        self.meters.sleep_state = ("awake", "weights_offloaded", "discard_all")[level]
        if level is not SleepLevel.PAUSED and not keeps_memory:
            self._ballast.drop()

    def wake(self) -> None:
        self._ballast.fill()
        self.level = None
        self.meters.sleep_state = "awake"
        self.resume()

    def die(self) -> None:
        """Stop for good; every listener is told."""
        self.is_dead = True
        self.core.pause()
        self._arm()
        listeners, self._listeners = self._listeners, {}
        for run, listener in listeners.items():
            self.meters.saw_error()
            listener.on_death(run)
        self._tell_drained()

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call `call` once nothing is in flight; at once if so now."""
        self._on_drained.append(call)
        self._tell_drained()

    def metrics_text(self) -> str:
        self._catch_up()
        self._arm()
        return self.meters.text(self.core)

    def _wake_up(self) -> None:
        self._timer = self._armed_for = None
        self._catch_up()
        self._arm()

    def _catch_up(self) -> None:
        for step in self.core.advance(self._loop.time()):
            self.meters.saw_step(step)
            for run in step.runs:
                self._hand_over(run)
        self._tell()
        self._tell_drained()

    def _tell(self) -> None:
        if self._teller is not None:
            self._teller.tell(time.time())

    def _hand_over(self, run: Run) -> None:
        listener = self._listeners.get(run)
        if listener is None:
            return
        if run.outcome is not None:
            self.meters.saw_end(run)
            del self._listeners[run]
        listener.on_token(run)

    def _arm(self) -> None:
        due = self.core.next_at
        if due == self._armed_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._wake_up)
        self._armed_for = due

    def _tell_drained(self) -> None:
        if self._listeners or not self._on_drained:
            return
        calls, self._on_drained = self._on_drained, []
        for call in calls:
            call()
