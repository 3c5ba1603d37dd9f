"""Bursts, days, zero and restarts against the simulator engine's core, in virtual time.

Each replica is a `Core` as `python -m agents.simulator` runs it; a gateway's queue stands before
them, and the controller's own `decide` orders them every two seconds.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from agents.simulator.core import Core, Limits, Run, Timing
from apps.deployments.reconcile.autoscale import decide
from apps.deployments.reconcile.scaling.values import (
    TICK_SECONDS,
    Decision,
    Observations,
    Policy,
    State,
)

SLOTS = 8
OUTPUT_TOKENS = 100
TIMING = Timing(prefill_tokens_per_second=20_480, decode_seconds_per_token=0.02)


@dataclass
class Engine:
    core: Core
    runs: list[Run] = field(default_factory=list)

    def busy(self, now: float) -> int:
        self.runs = [run for run in self.runs if run.finished_at is None or run.finished_at > now]
        return len(self.runs)


@dataclass
class Fleet:
    """Engines behind one queue; `rate(t)` requests arrive a second."""

    policy: Policy
    start_seconds: float = 30.0
    now: float = 0.0
    engines: list[Engine] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)
    queue: deque[float] = field(default_factory=deque)
    state: State | None = None
    history: list[Decision] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    _due: float = 0.0

    def run(self, seconds: float, rate) -> None:
        """Let `seconds` pass, a tick at a time."""
        for _ in range(int(seconds / TICK_SECONDS)):
            self._tick(rate)

    def forget(self) -> None:
        """Restart the controller: what it remembers is gone."""
        self.state = None

    def _tick(self, rate) -> None:
        end = self.now + TICK_SECONDS
        self._come_up(end)
        admitted = 0
        while self.now < end - 1e-9:
            self.now += 0.25
            self._due += rate(self.now) * 0.25
            while self._due >= 1:
                self._due -= 1
                self.queue.append(self.now)
            admitted += self._admit()
        self._decide(admitted)

    def _come_up(self, end: float) -> None:
        for at in [at for at in self.starting if at <= end]:
            self.starting.remove(at)
            limits = Limits(kv_cache_tokens=65_536, block_tokens=16, max_num_seqs=SLOTS)
            self.engines.append(Engine(Core(limits, TIMING, joins_steps=True)))

    def _admit(self) -> int:
        for engine in self.engines:
            for _ in engine.core.advance(self.now):
                pass
        count = 0
        while self.queue:
            free = [engine for engine in self.engines if engine.busy(self.now) < SLOTS]
            if not free:
                break
            engine = min(free, key=lambda e: len(e.runs))
            self.waits.append(self.now - self.queue.popleft())
            run = Run(prompt_tokens=200, output_tokens=OUTPUT_TOKENS)
            engine.core.submit(run, self.now)
            engine.runs.append(run)
            count += 1
        return count

    def _decide(self, admitted: int) -> None:
        seen = Observations(
            at=self.now,
            in_flight=sum(engine.busy(self.now) for engine in self.engines),
            queued=len(self.queue),
            admitted=admitted,
            ready=len(self.engines),
            starting=tuple(max(0.0, at - self.now) for at in self.starting),
            start_seconds=self.start_seconds,
            rung=bool(self.queue) and not self.engines,
        )
        decision = decide(self.policy, self.state, seen, self.now)
        self.state = decision.state
        self.history.append(decision)
        held = len(self.engines) + len(self.starting)
        self.starting += [self.now + self.start_seconds] * max(0, decision.wanted - held)
        for _ in range(held - decision.wanted):
            if self.starting:
                self.starting.pop()
            else:
                self.engines.sort(key=lambda e: -len(e.runs))
                self.engines.pop()

    @property
    def wanted(self) -> list[int]:
        return [decision.wanted for decision in self.history]


def fleet(replicas: int = 1, **policy) -> Fleet:
    values = {"min_replicas": 1, "max_replicas": 12, "target_concurrency": SLOTS} | policy
    made = Fleet(policy=Policy(**values))
    made.starting = [0.0] * replicas
    return made


class TestVirtualTime:
    def test_a_burst_is_served_and_its_replicas_stay_for_the_hold_and_go(self):
        chat = fleet(hold_seconds=120)
        chat.run(120, lambda t: 1)

        chat.run(60, lambda t: 15)
        chat.run(100, lambda t: 1)
        during = max(chat.wanted)
        chat.run(400, lambda t: 1)

        assert during >= 5
        assert chat.wanted[-1] == 1
        assert not chat.queue
        assert sorted(chat.waits)[len(chat.waits) // 2] < 15

    def test_a_day_is_followed_up_and_down_without_flapping(self):
        chat = fleet(hold_seconds=120)
        day = 1800.0

        chat.run(day, lambda t: 8 * (1 - math.cos(2 * math.pi * t / day)))

        peak = 16 * OUTPUT_TOKENS * 0.02 / SLOTS
        turns = [b - a for a, b in pairwise(chat.wanted) if a != b]
        flips = sum((a > 0) != (b > 0) for a, b in pairwise(turns))
        assert peak <= max(chat.wanted) <= 2.5 * peak
        assert chat.wanted[-1] <= 2
        assert flips <= 4

    def test_zero_one_zero_for_one_request(self):
        chat = fleet(min_replicas=0, scale_to_zero_after_seconds=60, hold_seconds=30)
        chat.run(200, lambda t: 0)
        assert chat.wanted[-1] == 0
        asked = chat.now

        chat.run(40, lambda t: 1 if t - asked <= 1 else 0)
        assert chat.wanted[-1] == 1
        assert 28 <= chat.waits[0] <= 36
        chat.run(120, lambda t: 0)

        assert chat.wanted[-1] == 0

    def test_a_controller_that_restarts_in_a_burst_takes_nothing_away(self):
        chat = fleet(hold_seconds=120)
        chat.run(60, lambda t: 1)
        chat.run(80, lambda t: 15)
        before = chat.wanted[-1]

        chat.forget()
        chat.run(100, lambda t: 15)

        assert min(chat.wanted[-50:]) >= min(before, len(chat.engines))
        assert before >= 4

    def test_a_wake_that_fails_is_tried_beside_and_served(self):
        chat = fleet(min_replicas=0, scale_to_zero_after_seconds=60, hold_seconds=30)
        chat.run(200, lambda t: 0)
        stuck = Observations(
            at=chat.now + 2, queued=1, stuck=1, rung=True, start_seconds=chat.start_seconds
        )

        decision = decide(chat.policy, chat.state, stuck, chat.now + 2)

        assert decision.wanted == 2
        assert "does not come up" in decision.reason
