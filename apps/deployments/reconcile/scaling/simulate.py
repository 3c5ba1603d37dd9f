"""Replay requests against a policy: the same `decide` as the controller's, in virtual time. Pure.

One gateway queue, first in first out; `slots` requests at once on a replica; a start takes
`start_seconds`; a tick every two seconds. Not simulated: preemption, network, batching effects (a
request takes the same time however full its replica is), replicas that fail. A draining replica
finishes what it holds and its slots are gone at once. Called by `bench/autoscale.py` and `what_if`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise

from apps.deployments.reconcile.scaling.values import (
    TICK_SECONDS,
    Decision,
    Observations,
    Policy,
    State,
)

type Request = tuple[float, float, float]
"""`(arrives at, prefill seconds, service seconds)`; service holds a slot and includes prefill."""
type Decide = Callable[[Policy, State | None, Observations, float], Decision]

LATE_SECONDS = 2.0
"""A first token later than this counts as late."""
DRAIN_CAP_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The world that a policy meets."""

    start_seconds: float
    slots: int
    """Requests that a replica holds at once."""
    first_replicas: int
    late_seconds: float = LATE_SECONDS
    fair_seconds: float = 300.0
    """No policy takes replicas away before: windows that are empty would say zero."""
    keep_ticks: bool = False
    """Keep what each tick saw, for charts."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    requests: int = 0
    late: int = 0
    """First token later than `late_seconds`."""
    wait_seconds: float = 0.0
    worst_wait_seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    """Of the requests that waited at all, in seconds."""
    gpu_seconds: float = 0.0
    peak_replicas: int = 0
    starts: int = 0
    cold_waits: int = 0
    """Requests that arrived while nothing was ready."""
    seconds: float = 0.0
    ticks: list[tuple[float, int, int, int, int]] = field(default_factory=list)
    """`(at, in flight, queued, ready, wanted)`."""
    decisions: list[tuple[float, int, str]] = field(default_factory=list)

    @property
    def late_ratio(self) -> float:
        return self.late / self.requests if self.requests else 0.0

    @property
    def gpu_hours(self) -> float:
        return self.gpu_seconds / 3600


def run(
    policy: Policy, requests: Sequence[Request], setup: Setup, decide: Decide, *, until: float
) -> Outcome:
    """Return the outcome of `requests` (sorted by arrival, from 0) up to `until` seconds."""
    world = _World(setup)
    state: State | None = None
    gate = iter(requests)
    upcoming = next(gate, None)
    now = 0.0
    while now < until:
        now += TICK_SECONDS
        upcoming = world.advance(now, upcoming, gate)
        seen = world.observe(now)
        decision = decide(policy, state, seen, now)
        state = decision.state
        world.order(now, decision)
    world.outcome.seconds = now
    return world.outcome


class _World:
    """Queue, slots and replicas at one time."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.outcome = Outcome(peak_replicas=setup.first_replicas)
        self.ready = setup.first_replicas
        self.starting: deque[float] = deque()
        """When each replica that starts will be ready, soonest first."""
        self.busy: list[float] = []
        """When each request in flight ends; a heap."""
        self.queue: deque[Request] = deque()
        self.admitted = 0
        self.service = 1.0
        self._wanted = setup.first_replicas

    def advance(
        self, until: float, upcoming: Request | None, gate: Iterator[Request]
    ) -> Request | None:
        """Let time pass to `until`; return the first request after it."""
        self.outcome.gpu_seconds += (self.ready + len(self.starting)) * TICK_SECONDS
        while self.starting and self.starting[0] <= until:
            at = self.starting.popleft()
            upcoming = self._arrive(at, upcoming, gate)
            self.ready += 1
            self._fill(at)
        upcoming = self._arrive(until, upcoming, gate)
        self._release(until)
        return upcoming

    def _arrive(
        self, until: float, upcoming: Request | None, gate: Iterator[Request]
    ) -> Request | None:
        slots, busy, queue = self.ready * self.setup.slots, self.busy, self.queue
        latest, outcome = self.setup.late_seconds, self.outcome
        admitted = late = 0
        while upcoming is not None and upcoming[0] <= until:
            at, prefill, service = upcoming
            if queue:
                self._release(at)
            else:
                while busy and busy[0] <= at:
                    heappop(busy)
            if queue or len(busy) >= slots:
                queue.append(upcoming)
                outcome.cold_waits += not self.ready
            else:
                heappush(busy, at + service)
                admitted += 1
                late += prefill > latest
            upcoming = next(gate, None)
        self.admitted += admitted
        outcome.requests += admitted
        outcome.late += late
        return upcoming

    def _release(self, until: float) -> None:
        """Let requests end up to `until`; each end lets the next one in, if it has a slot."""
        busy, slots = self.busy, self.ready * self.setup.slots
        while busy and busy[0] <= until:
            at = heappop(busy)
            if self.queue and len(busy) < slots:
                self._start(at)

    def _fill(self, at: float) -> None:
        """Use new slots at once."""
        self._release(at)
        slots = self.ready * self.setup.slots
        while self.queue and len(self.busy) < slots:
            self._start(at)

    def _start(self, at: float) -> None:
        arrived, prefill, service = self.queue.popleft()
        wait = max(0.0, at - arrived)
        heappush(self.busy, at + service)
        self.admitted += 1
        outcome = self.outcome
        outcome.requests += 1
        outcome.late += wait + prefill > self.setup.late_seconds
        outcome.wait_seconds += wait
        outcome.waits.append(wait)

    def observe(self, now: float) -> Observations:
        """Return what a controller would see, and begin a new tick."""
        admitted, self.admitted = self.admitted, 0
        return Observations(
            at=now,
            in_flight=len(self.busy),
            queued=len(self.queue),
            admitted=admitted,
            ready=self.ready,
            starting=tuple([max(0.0, at - now) for at in self.starting]),
            start_seconds=self.setup.start_seconds,
            rung=bool(self.queue) and not self.ready,
        )

    def order(self, now: float, decision: Decision) -> None:
        """Start or stop replicas toward what is wanted; what does not serve yet goes first."""
        wanted = decision.wanted
        if now <= self.setup.fair_seconds:
            wanted = max(wanted, self._wanted)
        held = self.ready + len(self.starting)
        for _ in range(wanted - held):
            self.starting.append(now + self.setup.start_seconds)
            self.outcome.starts += 1
        for _ in range(held - wanted):
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1
                self.outcome.gpu_seconds += self._drain_seconds(now)
        self.outcome.peak_replicas = max(self.outcome.peak_replicas, wanted)
        self._keep(now, wanted, decision)
        self._wanted = wanted

    def _drain_seconds(self, now: float) -> float:
        """Return how long a leaving replica still holds its GPU: to its last request's end."""
        if not self.busy or len(self.busy) <= self.ready * self.setup.slots // 2:
            return 0.0
        return min(DRAIN_CAP_SECONDS, max(self.busy) - now)

    def _keep(self, now: float, wanted: int, decision: Decision) -> None:
        if wanted != self._wanted:
            self.outcome.decisions.append((now, wanted, decision.reason))
        if self.setup.keep_ticks:
            self.outcome.ticks.append((now, len(self.busy), len(self.queue), self.ready, wanted))


def percentile(waits: Sequence[float], requests: int, ratio: float) -> float:
    """Return the wait below which `ratio` of all requests lie; the rest did not wait: 0."""
    rank = int(ratio * requests) - (requests - len(waits))
    ordered = sorted(waits)
    return ordered[min(rank, len(ordered) - 1)] if ordered and rank >= 0 else 0.0


def changes(wanted: Sequence[int]) -> int:
    """Return how often a series changes direction: how much it flaps."""
    steps = [b - a for a, b in pairwise(wanted) if a != b]
    return sum(1 for a, b in pairwise(steps) if (a > 0) != (b > 0))
