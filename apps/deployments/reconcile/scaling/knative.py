"""Knative's KPA: concurrency over a stable and a panic window. Pure.

Source: knative/serving pkg/autoscaler/scaling/autoscaler.go and config-autoscaler's defaults. The
metric counts queued requests too, as Knative's activator and queue-proxy do.
"""

import math

from apps.deployments.reconcile.scaling.values import (
    Hold,
    KnativeMemory,
    Need,
    Observations,
    Policy,
)

UTILIZATION = 0.7
STABLE_TICKS = 30
PANIC_TICKS = 3
STABLE_SECONDS = 60.0
PANIC_THRESHOLD = 2.0
MAX_UP_RATE = 1000.0
MAX_DOWN_RATE = 2.0


def need(
    policy: Policy, memory: KnativeMemory, seen: Observations, *, delay_seconds: float = 0.0
) -> Need:
    """Return what the KPA asks for; `delay_seconds` is its scale-down-delay."""
    window = (*memory.concurrency[-(STABLE_TICKS - 1) :], float(seen.in_flight + seen.queued))
    target = max(0.01, policy.target_concurrency * UTILIZATION)
    ready = max(1, seen.ready)
    last = window[-PANIC_TICKS:]
    for_stable = math.ceil(sum(window) / len(window) / target)
    for_panic = math.ceil(sum(last) / len(last) / target)
    low, high = math.floor(ready / MAX_DOWN_RATE), math.ceil(MAX_UP_RATE * ready)
    stable = min(max(for_stable, low), high)
    panic = min(max(for_panic, low), high)

    panic_at, most = _panic(memory, seen.at, for_panic / ready >= PANIC_THRESHOLD)
    if panic_at is not None:
        most = max(most, stable, panic)
    wanted = stable if panic_at is None else most
    delay = memory.delay.add(seen.at, wanted, delay_seconds) if delay_seconds else Hold()
    wanted = max(wanted, delay.most)
    return Need(
        replicas=wanted,
        memory=KnativeMemory(concurrency=window, panic_at=panic_at, panic_most=most, delay=delay),
        terms={"stable": for_stable, "panic": for_panic, "ready": ready, "target": target},
        reason=_words(panic_at is not None, sum(window) / len(window), target),
    )


def _panic(memory: KnativeMemory, at: float, is_over: bool) -> tuple[float | None, int]:
    """Return since when panic lasts and its largest wish; `(None, 0)` outside panic."""
    if is_over:
        return at, memory.panic_most
    if memory.panic_at is not None and memory.panic_at + STABLE_SECONDS < at:
        return None, 0
    return memory.panic_at, memory.panic_most


def _words(is_panic: bool, mean: float, target: float) -> str:
    mode = "panic window" if is_panic else "stable window"
    return f"Knative, {mode}: {mean:.1f} requests at once on average, target {target:.3g} each"
