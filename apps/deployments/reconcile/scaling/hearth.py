"""The rule `hearth`: offered concurrency, starts counted as supply, a hold window. Pure.

Offered concurrency is what would be in flight if capacity were infinite (Little's law: arrivals of
the last service time). Unlike "in flight + queued" it does not grow while capacity is missing, so a
long cold start orders no replica that would come too late. Figures: docs/scaling.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from apps.deployments.reconcile.scaling.values import (
    TICK_SECONDS,
    HearthMemory,
    Need,
    Observations,
    Policy,
)
from apps.deployments.states import ScalingProfile

STABLE_TICKS = 30
STABLE_SECONDS = STABLE_TICKS * TICK_SECONDS
PANIC_TICKS = 3
LEVEL_TICKS = 5
"""While requests wait, what is offered now is the mean of so many ticks."""
BURSTY_DISPERSION = 5.0
BURSTY_VARIATION = 0.5
"""Variance over mean, and over mean squared, of a tick's arrivals; above both, traffic is bursty.

Random arrivals have a dispersion of 1; a small variation is what many callers at once smooth out.
"""
FIRST_SERVICE_SECONDS = 5.0
"""Until a deployment has measured its own."""
LEARNING_RATE = 0.1
LEAST_CAPACITY = 4
"""A learned capacity below the target's fourth is no capacity but a fault."""

FAST_SECONDS = 60.0
SLOW_SECONDS = 240.0
_SERVICE_MEMORY_SECONDS = 120.0
_BURST_MEMORY_SECONDS = 600.0
_LONGEST_SERVICE_TICKS = 150


@dataclass(frozen=True, slots=True)
class Weights:
    """What a profile makes of the same traffic."""

    rho: float
    """Part of a replica's capacity that is planned with."""
    spread: float
    """Standard deviations above the mean of the stable window."""
    peak: float
    """Part of the panic window's peak that must find a slot at once."""
    drain_seconds: float
    """How fast a backlog should go."""
    full_ticks: int
    """Slots that were full for so many ticks, while the queue grew, count as load; 0: the minute's
    mean is all that counts."""
    trend: float
    """Part of the rise until a replica ordered now is ready that is ordered for."""


PROFILES = {
    ScalingProfile.BALANCED: Weights(
        rho=0.9, spread=1.0, peak=0.5, drain_seconds=25.0, full_ticks=5, trend=1.0
    ),
    ScalingProfile.RESPONSIVE: Weights(
        rho=0.9, spread=2.0, peak=0.75, drain_seconds=25.0, full_ticks=1, trend=0.5
    ),
    ScalingProfile.FRUGAL: Weights(
        rho=1.0, spread=0.5, peak=0.0, drain_seconds=25.0, full_ticks=0, trend=0.5
    ),
}
"""Fitted on the first halves of three traces; the second halves are held out (docs/scaling.md)."""


def need(policy: Policy, memory: HearthMemory, seen: Observations, seconds: float) -> Need:
    """Return how many replicas the traffic needs. `seconds`: since the tick before."""
    learned = _learn(policy, memory, seen, seconds)
    per_replica = min(float(policy.target_concurrency), learned.capacity or math.inf)
    demand = Demand(
        offered=learned.offered,
        held=learned.held,
        was_queued=memory.queued,
        service_seconds=service_seconds(learned),
        per_replica=per_replica,
        rise_per_second=max(0.0, learned.fast - learned.slow) / (SLOW_SECONDS - FAST_SECONDS),
        weights=PROFILES[profile_of(policy, learned)],
    )
    terms = demand.terms(seen)
    now = math.ceil(max(terms["mean_need"], terms["peak_need"], terms["backlog_need"]) - 1e-9)
    hold = learned.hold.add(seen.at, now, policy.hold_seconds)
    terms |= {"need": now, "hold": hold.most, "dispersion": dispersion(learned)}
    return Need(
        replicas=hold.most,
        memory=msgspec.structs.replace(learned, hold=hold),
        terms=terms,
        reason=_words(terms, policy, seen),
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """What the traffic asks for, in requests at once."""

    offered: tuple[float, ...]
    held: tuple[int, ...]
    was_queued: int
    """At the tick before."""
    service_seconds: float
    per_replica: float
    rise_per_second: float
    weights: Weights

    def terms(self, seen: Observations) -> dict[str, float]:
        """Return the terms of the rule by name."""
        w = self.weights
        n = len(self.offered)
        mean = sum(self.offered) / n
        spread = math.sqrt(max(0.0, sum(v * v for v in self.offered) / n - mean * mean))
        # A step down spreads the window: never plan for more than was there.
        spread = min(w.spread * spread, max(self.offered) - mean)
        if self.service_seconds > STABLE_SECONDS:
            # Few long requests: what is in flight is load, however long ago it came. Of short ones
            # it is what was offered, or a backlog that drains.
            mean = max(mean, sum(self.held) / n)
        peak = max(self.offered[-PANIC_TICKS:])
        rise = self.rise_per_second * min(seen.start_seconds, SLOW_SECONDS) * w.trend
        level = self._level(seen, mean)
        backlog = self._backlog(seen, level)
        return {
            "offered": self.offered[-1],
            "mean": mean,
            "spread": spread,
            "peak": peak,
            "service_seconds": self.service_seconds,
            "per_replica": self.per_replica,
            "backlog": backlog,
            "rise": rise,
            "mean_need": (mean + rise + spread) / (self.per_replica * w.rho),
            "peak_need": w.peak * peak / self.per_replica,
            "backlog_need": (level + backlog / w.drain_seconds) / self.per_replica
            if backlog
            else 0,
        }

    def _level(self, seen: Observations, mean: float) -> float:
        """Return what is offered now; while requests wait, the minute's mean lags behind it."""
        if not seen.queued or not self.weights.full_ticks:
            return mean
        level = max(mean, _mean(self.offered[-LEVEL_TICKS:]))
        if seen.queued < self.was_queued:
            return level  # the slots are full of a backlog that drains
        return max(level, _mean(self.held[-self.weights.full_ticks :]))

    def _backlog(self, seen: Observations, level: float) -> float:
        """Return the slot-seconds that will still wait when a replica ordered now is ready."""
        start = seen.start_seconds
        work = seen.queued * self.service_seconds + (level - seen.ready * self.per_replica) * start
        soon = self.per_replica * sum(max(0.0, start - eta) for eta in seen.starting)
        return max(0.0, work - soon)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _learn(
    policy: Policy, memory: HearthMemory, seen: Observations, seconds: float
) -> HearthMemory:
    """Return the memory with one more tick in it."""
    arrivals = max(0, seen.admitted + seen.queued - memory.queued)
    completed = max(0, seen.admitted + memory.in_flight - seen.in_flight)
    keep = math.exp(-seconds / _SERVICE_MEMORY_SECONDS)
    burst = 1 - math.exp(-seconds / _BURST_MEMORY_SECONDS)
    learned = msgspec.structs.replace(
        memory,
        in_flight_seconds=memory.in_flight_seconds * keep + seen.in_flight * seconds,
        completed=memory.completed * keep + completed,
        capacity=_capacity(policy, memory.capacity, seen),
        arrivals=(*memory.arrivals[-_reach(memory) :], arrivals),
        queued=seen.queued,
        in_flight=seen.in_flight,
        mean_arrivals=memory.mean_arrivals + burst * (arrivals - memory.mean_arrivals),
        mean_square=memory.mean_square + burst * (arrivals * arrivals - memory.mean_square),
        burst_weight=memory.burst_weight + burst * (1.0 - memory.burst_weight),
    )
    offered = _offered(learned.arrivals, service_seconds(learned))
    fast, slow = (1 - math.exp(-seconds / span) for span in (FAST_SECONDS, SLOW_SECONDS))
    if not memory.offered:
        fast = slow = 1.0
    return msgspec.structs.replace(
        learned,
        fast=memory.fast + fast * (offered - memory.fast),
        slow=memory.slow + slow * (offered - memory.slow),
        offered=(*memory.offered[-(STABLE_TICKS - 1) :], offered),
        held=(*memory.held[-(STABLE_TICKS - 1) :], seen.in_flight),
    )


def _reach(memory: HearthMemory) -> int:
    """Return how many ticks of arrivals can matter: two service times."""
    return min(_LONGEST_SERVICE_TICKS, 4 + int(service_seconds(memory) * 2 / TICK_SECONDS))


def service_seconds(memory: HearthMemory) -> float:
    """Return the mean time a request holds a slot: mean in flight over completions a second."""
    return (memory.in_flight_seconds + FIRST_SERVICE_SECONDS) / (memory.completed + 1.0)


def _offered(arrivals: tuple[int, ...], service: float) -> float:
    """Return the arrivals of the last service time; of a shorter one, its part of a tick's."""
    ticks = service / TICK_SECONDS
    whole = int(ticks)
    total = float(sum(arrivals[-whole:])) if whole else 0.0
    if whole < len(arrivals):
        total += arrivals[-whole - 1] * (ticks - whole)
    return total


def _capacity(policy: Policy, known: float, seen: Observations) -> float:
    """Learn what a replica holds when its engine begins to queue; a fuller batch unlearns it."""
    if seen.running is None or not seen.ready:
        return known
    each = seen.running / seen.ready
    least = policy.target_concurrency / LEAST_CAPACITY
    # One queue of many is a matter of routing; a queue on each is the engines' limit.
    if (seen.waiting or 0) >= seen.ready and least <= each < policy.target_concurrency:
        return each if not known else known + LEARNING_RATE * (each - known)
    return each if known and each > known else known


def dispersion(memory: HearthMemory) -> float:
    """Return variance over mean of the arrivals of a tick; 0 without traffic."""
    if memory.mean_arrivals < 1e-3:
        return 0.0
    return max(0.0, memory.mean_square / memory.mean_arrivals - _arrivals(memory))


def _arrivals(memory: HearthMemory) -> float:
    """Return the mean arrivals of a tick; fading means begin at 0 and are too small at first."""
    return memory.mean_arrivals / (memory.burst_weight or 1.0)


def profile_of(policy: Policy, memory: HearthMemory) -> ScalingProfile:
    """Return the policy's profile; `responsive` by itself where traffic comes in bursts."""
    if policy.profile != ScalingProfile.BALANCED:
        return policy.profile
    found = dispersion(memory)
    varied = found > BURSTY_VARIATION * _arrivals(memory)
    return ScalingProfile.RESPONSIVE if found > BURSTY_DISPERSION and varied else policy.profile


def _words(terms: dict[str, float], policy: Policy, seen: Observations) -> str:
    each = f"{terms['per_replica']:.3g} each"
    if terms["hold"] > terms["need"]:
        return f"{terms['hold']:.0f} were needed within the last {policy.hold_seconds:.0f} s"
    if terms["need"] == 0:
        return "no request is offered"
    if terms["backlog_need"] >= max(terms["mean_need"], terms["peak_need"]):
        return (
            f"{seen.queued} {'waits' if seen.queued == 1 else 'wait'}, "
            f"and {terms['mean']:.1f} requests at once are too many until a replica ordered "
            f"now is ready ({seen.start_seconds:.0f} s), at {each}"
        )
    if terms["peak_need"] > terms["mean_need"]:
        return f"a peak of {terms['peak']:.1f} requests at once, at {each}"
    return f"{terms['mean']:.1f} requests at once (± {terms['spread']:.1f}), at {each}"
