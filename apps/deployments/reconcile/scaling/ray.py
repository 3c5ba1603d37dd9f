"""Ray Serve's autoscaling policy. Pure.

Source: ray python/ray/serve/autoscaling_policy.py and its defaults: ongoing requests averaged over
30 s, a rise must last 30 s, a fall 600 s, smoothing factors 1; from zero at once, to zero only
from one.
"""

import math

from apps.deployments.reconcile.scaling.values import Need, Observations, Policy, RayMemory

LOOK_BACK_TICKS = 15
UPSCALE_DELAY_SECONDS = 30.0
DOWNSCALE_DELAY_SECONDS = 600.0


def need(policy: Policy, memory: RayMemory, seen: Observations) -> Need:
    """Return what Ray Serve asks for."""
    ongoing = (*memory.ongoing[-(LOOK_BACK_TICKS - 1) :], float(seen.in_flight + seen.queued))
    mean = sum(ongoing) / len(ongoing)
    current = memory.desired if memory.desired is not None else seen.ready + len(seen.starting)
    if current == 0:
        wish = 1 if seen.in_flight + seen.queued else 0
        return _answer(policy, RayMemory(ongoing=ongoing, desired=wish), wish, mean)
    error = mean / (policy.target_concurrency * current)
    wish = math.ceil(current * error)
    wish = max(wish, policy.min_replicas, 1 if current > 1 else 0)
    up, down = _timers(memory, seen.at, wish, current)
    if up is not None and seen.at - up >= UPSCALE_DELAY_SECONDS:
        current, up = min(wish, policy.max_replicas), None
    elif down is not None and seen.at - down >= DOWNSCALE_DELAY_SECONDS:
        current, down = wish, None
    memory = RayMemory(ongoing=ongoing, up_since=up, down_since=down, desired=current)
    return _answer(policy, memory, current, mean)


def _timers(
    memory: RayMemory, at: float, wish: int, current: int
) -> tuple[float | None, float | None]:
    """Return since when it has wished for more, and for fewer; one of them at most."""
    if wish > current:
        return (at if memory.up_since is None else memory.up_since), None
    if wish < current:
        return None, (at if memory.down_since is None else memory.down_since)
    return None, None


def _answer(policy: Policy, memory: RayMemory, wish: int, mean: float) -> Need:
    return Need(
        replicas=wish,
        memory=memory,
        terms={"ongoing": mean, "target": policy.target_concurrency, "desired": wish},
        reason=f"Ray Serve: {mean:.1f} ongoing requests, target {policy.target_concurrency} each",
    )
