"""Kubernetes' HorizontalPodAutoscaler, and KEDA, which drives one from a polled metric. Pure.

Source: kubernetes pkg/controller/podautoscaler and its default behavior: sync 15 s, tolerance 10 %,
scale-down stabilization 300 s, up at most the larger of +4 pods and x2 in 15 s. KEDA: polls every
30 s, takes the deployment to zero itself after a cooldown of 300 s and back at once.
"""

import math

import msgspec

from apps.deployments.reconcile.scaling.values import HpaMemory, Need, Observations, Policy

SYNC_SECONDS = 15.0
TOLERANCE = 0.1
STABILIZATION_SECONDS = 300.0
UP_PERIOD_SECONDS = 15.0
UP_PODS = 4
UP_RATIO = 2.0
KEDA_POLL_SECONDS = 30.0
KEDA_COOLDOWN_SECONDS = 300.0


def need(policy: Policy, memory: HpaMemory, seen: Observations) -> Need:
    """Return what the HPA asks for, at its own pace: between syncs the last answer stands."""
    return _synced(policy, memory, seen, float(seen.in_flight + seen.queued))


def need_keda(policy: Policy, memory: HpaMemory, seen: Observations) -> Need:
    """Return what KEDA asks for: the HPA on a metric polled every 30 s; 0 and 1 by itself."""
    metric = float(seen.in_flight + seen.queued)
    if memory.polled_at is None or seen.at - memory.polled_at >= KEDA_POLL_SECONDS:
        memory = msgspec.structs.replace(memory, polled_at=seen.at, metric=metric)
    if metric > 0 or memory.active_at is None:
        memory = msgspec.structs.replace(memory, active_at=seen.at)
    found = _synced(policy, memory, seen, memory.metric)
    is_idle = seen.at - (memory.active_at or 0.0) >= KEDA_COOLDOWN_SECONDS
    if is_idle and policy.min_replicas == 0:
        return msgspec.structs.replace(found, replicas=0, reason="KEDA: idle for its cooldown")
    return found


def _synced(policy: Policy, memory: HpaMemory, seen: Observations, metric: float) -> Need:
    current = max(1, memory.desired or seen.ready + len(seen.starting))
    due = memory.synced_at is None or seen.at - memory.synced_at >= SYNC_SECONDS
    if not due:
        return _answer(policy, memory, metric, current)
    ratio = metric / (current * policy.target_concurrency)
    wish = current if abs(ratio - 1) <= TOLERANCE else math.ceil(current * ratio)
    wish = max(1, wish)
    recommended = (
        *(r for r in memory.recommended if r[0] > seen.at - STABILIZATION_SECONDS),
        (seen.at, wish),
    )
    # Scale-down stabilization: the largest recommendation of the window, never more than now.
    wish = max(wish, min(current, max(r[1] for r in recommended)))
    if wish > current:
        wish = min(wish, _up_limit(memory, seen.at, current), policy.max_replicas)
    events = tuple(e for e in memory.events if e[0] > seen.at - UP_PERIOD_SECONDS)
    if wish > current:
        events = (*events, (seen.at, current))
    memory = msgspec.structs.replace(
        memory, synced_at=seen.at, desired=wish, recommended=recommended, events=events
    )
    return _answer(policy, memory, metric, wish)


def _up_limit(memory: HpaMemory, at: float, current: int) -> int:
    """Return how far the default policies let it rise now."""
    recent = [before for when, before in memory.events if when > at - UP_PERIOD_SECONDS]
    start = min(recent, default=current)
    return max(start + UP_PODS, math.ceil(start * UP_RATIO))


def _answer(policy: Policy, memory: HpaMemory, metric: float, wish: int) -> Need:
    return Need(
        replicas=wish,
        memory=memory,
        terms={"metric": metric, "target": policy.target_concurrency, "desired": wish},
        reason=f"HPA: {metric:.0f} requests at once, target {policy.target_concurrency} each",
    )
