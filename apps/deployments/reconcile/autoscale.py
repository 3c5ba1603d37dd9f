"""Decide how many replicas of one deployment are wanted. Pure: no clock, no rows, no I/O.

`decide` lets a rule say what traffic needs and keeps it within what people, the clock and the GPUs
allow. Called every two seconds per deployment by `scaler`, and by the simulator behind
`bench/autoscale.py` and the what-if: there is no second copy of any rule. What it returns follows
from its arguments alone, so a stored run can be decided again.
"""

import math
from dataclasses import dataclass, field

import msgspec

from apps.deployments.reconcile.scaling import hearth, hpa, knative, ray, schedule
from apps.deployments.reconcile.scaling.values import (
    TICK_SECONDS,
    Decision,
    HearthMemory,
    HpaMemory,
    KnativeMemory,
    Memory,
    Need,
    Observations,
    Policy,
    RayMemory,
    State,
)
from apps.deployments.states import ScalingRule

GAP_SECONDS = 30.0
"""After so long without a tick, or a clock that went back, windows say nothing any more."""

_FIRST: dict[ScalingRule, type[Memory]] = {
    ScalingRule.HEARTH: HearthMemory,
    ScalingRule.KNATIVE: KnativeMemory,
    ScalingRule.KNATIVE_DELAY: KnativeMemory,
    ScalingRule.HPA: HpaMemory,
    ScalingRule.KEDA: HpaMemory,
    ScalingRule.RAY: RayMemory,
}


def decide(policy: Policy, state: State | None, seen: Observations, now: float) -> Decision:
    """Return what is wanted at `now`, why, and what to remember.

    `state` is None at the first tick. After that, after a gap in the ticks, and after a clock that
    went back, the replicas that are there count as needed for one hold window.
    """
    state = _resumed(policy, state, seen, now)
    if not seen.fresh:
        return _frozen(policy, state, seen, now)
    need = _need(policy, state, seen, max(0.1, now - state.at))
    limits = _limits(policy, seen, now)
    choice = _Choice(need.replicas, need.reason, need.terms)
    _guard_ttft(choice, policy, seen)
    _keep(choice, state, seen, now)
    _replace_stuck(choice, policy, seen)
    busy_at = _busy_at(state, seen, now)
    _at_least_one(choice, policy, limits, seen, now - busy_at)
    _bound(choice, limits, seen)
    at_zero = choice.wanted == 0 and limits.ceiling > 0
    return Decision(
        wanted=choice.wanted,
        state=msgspec.structs.replace(
            state, at=now, wanted=choice.wanted, busy_at=busy_at, frozen=False, memory=need.memory
        ),
        reason=choice.reason,
        terms=choice.terms,
        changed=choice.wanted != state.wanted,
        at_zero=at_zero,
    )


@dataclass(slots=True)
class _Choice:
    """The number on its way through the limits, and what last moved it."""

    wanted: int
    reason: str
    terms: dict[str, float] = field(default_factory=dict)

    def set(self, wanted: int, reason: str) -> None:
        self.wanted, self.reason = wanted, reason


@dataclass(frozen=True, slots=True)
class _Limits:
    floor: int
    ceiling: int
    why_floor: str
    why_ceiling: str


def _resumed(policy: Policy, state: State | None, seen: Observations, now: float) -> State:
    """Return the state to go on from; what stands now is kept for a hold window where it is new."""
    held = seen.ready + len(seen.starting) + seen.stuck
    if state is not None and -TICK_SECONDS <= now - state.at <= GAP_SECONDS:
        return state if _fits(policy, state) else msgspec.structs.replace(state, memory=None)
    # A deployment that was never decided on has one replica on order.
    keep = max(1, held) if state is None else held
    return State(
        at=now - TICK_SECONDS,
        wanted=keep if state is None else state.wanted,
        keep=keep,
        keep_until=now + policy.hold_seconds,
        busy_at=now,
        memory=_without_windows(policy, state),
    )


def _fits(policy: Policy, state: State) -> bool:
    return state.memory is None or isinstance(state.memory, _FIRST[policy.rule])


def _without_windows(policy: Policy, state: State | None) -> Memory | None:
    """Return what was learned, without what was counted: it is of another time."""
    if state is None or not isinstance(state.memory, HearthMemory) or not _fits(policy, state):
        return None
    return msgspec.structs.replace(
        state.memory, offered=(), held=(), arrivals=(), hold=type(state.memory.hold)()
    )


def _frozen(policy: Policy, state: State, seen: Observations, now: float) -> Decision:
    """Keep what is wanted while nothing is known; bounds that people set hold all the same."""
    limits = _limits(policy, seen, now)
    wanted = min(max(state.wanted, limits.floor), limits.ceiling)
    since = state.frozen_at if state.frozen else now
    return Decision(
        wanted=wanted,
        state=msgspec.structs.replace(state, at=now, wanted=wanted, frozen=True, frozen_at=since),
        reason=f"no gateway has told its numbers for {seen.silent_seconds:.0f} s: stays as it is",
        changed=wanted != state.wanted,
        at_zero=wanted == 0 and limits.ceiling > 0,
    )


def _need(policy: Policy, state: State, seen: Observations, seconds: float) -> Need:
    memory = state.memory if state.memory is not None else _FIRST[policy.rule]()
    match memory:
        case HearthMemory():
            return hearth.need(policy, memory, seen, seconds)
        case KnativeMemory():
            delayed = policy.rule == ScalingRule.KNATIVE_DELAY
            delay = policy.hold_seconds if delayed else 0.0
            return knative.need(policy, memory, seen, delay_seconds=delay)
        case HpaMemory():
            rule = hpa.need_keda if policy.rule == ScalingRule.KEDA else hpa.need
            return rule(policy, memory, seen)
        case RayMemory():
            return ray.need(policy, memory, seen)


def _limits(policy: Policy, seen: Observations, now: float) -> _Limits:
    """Return floor and ceiling from people, clock, history and budget; a ceiling wins."""
    by_clock, until_clock = schedule.bounds(policy.schedule, now, seen.start_seconds)
    floor, why_floor = policy.min_replicas, f"the minimum is {policy.min_replicas}"
    if by_clock > floor:
        floor, why_floor = by_clock, f"the schedule asks for {by_clock}"
    by_season = math.ceil(seen.seasonal / max(1, policy.target_concurrency) - 1e-9)
    if by_season > floor:
        floor, why_floor = by_season, f"{seen.seasonal:.1f} requests at once came at this hour"
    ceiling, why_ceiling = policy.max_replicas, f"the maximum is {policy.max_replicas}"
    if until_clock is not None:
        ceiling, why_ceiling = until_clock, f"the schedule allows {until_clock}"
    if policy.gpu_budget is not None and policy.gpus_per_replica:
        affordable = policy.gpu_budget // policy.gpus_per_replica
        if affordable < ceiling:
            ceiling, why_ceiling = affordable, f"the budget is {policy.gpu_budget} GPUs"
    return _Limits(min(floor, ceiling), ceiling, why_floor, why_ceiling)


def _guard_ttft(choice: _Choice, policy: Policy, seen: Observations) -> None:
    """Want one more while answers begin too late and nothing that would help is on its way."""
    target, p95 = policy.ttft_target_seconds, seen.ttft_p95_seconds
    if target is None or p95 is None or p95 <= target or seen.starting or seen.unplaced:
        return
    if seen.in_flight + seen.queued and choice.wanted <= seen.ready:
        choice.set(
            seen.ready + 1,
            f"TTFT p95 is {p95:.2f} s, {target:.3g} s is the target, and nothing is starting",
        )


def _keep(choice: _Choice, state: State, seen: Observations, now: float) -> None:
    """After a restart what was there is needed: the windows have seen too little to say less."""
    if now < state.keep_until and state.keep > choice.wanted:
        left = state.keep_until - now
        choice.set(state.keep, f"{state.keep} were there at the start; kept {left:.0f} s more")
    choice.terms["keep"] = state.keep if now < state.keep_until else 0


def _replace_stuck(choice: _Choice, policy: Policy, seen: Observations) -> None:
    """Want one beside those that do not come up: they are no supply, and no reason for a flood."""
    short = choice.wanted > seen.ready + len(seen.starting)
    if seen.stuck and short and choice.wanted > 0:
        choice.set(
            choice.wanted + 1,
            f"{choice.reason}; {seen.stuck} of them does not come up, so one more is tried",
        )


def _busy_at(state: State, seen: Observations, now: float) -> float:
    """Return when it was last of use: with requests, or while its first replica was coming."""
    is_coming_up = seen.ready == 0 and bool(seen.starting or seen.unplaced or seen.stuck)
    is_busy = bool(seen.in_flight or seen.queued or seen.admitted or seen.rung)
    return now if is_busy or is_coming_up else state.busy_at


def _at_least_one(
    choice: _Choice, policy: Policy, limits: _Limits, seen: Observations, idle_seconds: float
) -> None:
    """Keep the last replica until nobody has asked for the whole time; one at once if they do."""
    if limits.floor > 0 or limits.ceiling == 0:
        return
    waits = seen.queued > 0 or seen.rung or seen.in_flight > 0
    if waits:
        if choice.wanted <= 1 and not seen.ready:
            choice.set(1, "a request waits and nothing serves")
        choice.wanted = max(1, choice.wanted)
        return
    is_up = seen.ready + len(seen.starting) + seen.stuck + seen.unplaced > 0
    left = policy.scale_to_zero_after_seconds - idle_seconds
    if left > 0 and is_up:
        choice.set(max(1, choice.wanted), _or(choice, f"idle; to zero in {left:.0f} s"))
    elif left <= 0:
        choice.set(0, f"no request for {idle_seconds:.0f} s")


def _or(choice: _Choice, reason: str) -> str:
    return choice.reason if choice.wanted > 1 else reason


def _bound(choice: _Choice, limits: _Limits, seen: Observations) -> None:
    choice.terms |= {"floor": limits.floor, "ceiling": limits.ceiling, "asked": choice.wanted}
    if choice.wanted < limits.floor:
        choice.set(limits.floor, limits.why_floor)
    elif choice.wanted > limits.ceiling:
        choice.set(limits.ceiling, f"{limits.why_ceiling}; {choice.wanted} are needed")
    room = seen.ready + len(seen.starting) + seen.stuck + 1
    if seen.unplaced and choice.wanted > max(room, limits.floor):
        # One waits for room and is tried again and again; more rows would wait beside it.
        choice.set(
            max(room, limits.floor),
            f"{choice.wanted} are needed, {room - 1} have room: {seen.missing or 'no host fits'}",
        )
