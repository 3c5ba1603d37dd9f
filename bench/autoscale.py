"""Replay a trace against a scaling policy: `python -m bench.autoscale --trace FILE`. Prints JSON.

The policy is the controller's own `decide`; any file of `bench/scaling/traces.py`'s kinds will do.
"""

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from apps.deployments.reconcile.autoscale import decide
from apps.deployments.reconcile.scaling.simulate import Outcome, Setup, percentile, run
from apps.deployments.reconcile.scaling.values import Policy
from apps.deployments.states import ScalingProfile, ScalingRule
from bench.scaling import traces
from bench.scaling.traces import Requests

POLICIES = {
    "knative": (ScalingRule.KNATIVE, ScalingProfile.BALANCED),
    "knative-delay": (ScalingRule.KNATIVE_DELAY, ScalingProfile.BALANCED),
    "hpa": (ScalingRule.HPA, ScalingProfile.BALANCED),
    "keda": (ScalingRule.KEDA, ScalingProfile.BALANCED),
    "ray": (ScalingRule.RAY, ScalingProfile.BALANCED),
    "hearth": (ScalingRule.HEARTH, ScalingProfile.BALANCED),
    "hearth-responsive": (ScalingRule.HEARTH, ScalingProfile.RESPONSIVE),
    "hearth-frugal": (ScalingRule.HEARTH, ScalingProfile.FRUGAL),
}


@dataclass(frozen=True, kw_only=True)
class World:
    start_seconds: float = 60.0
    slots: int = 16
    first_replicas: int = 1
    min_replicas: int = 1
    max_replicas: int = 200
    hold_seconds: float = 300.0


def replay(
    requests: Requests, policy: str, world: World, *, seconds: float, keep_ticks: bool = False
) -> Outcome:
    """Return what `policy` makes of `requests` in `world`."""
    rule, profile = POLICIES[policy]
    wanted = Policy(
        min_replicas=world.min_replicas,
        max_replicas=world.max_replicas,
        target_concurrency=world.slots,
        rule=rule,
        profile=profile,
        hold_seconds=world.hold_seconds,
    )
    setup = Setup(
        start_seconds=world.start_seconds,
        slots=world.slots,
        first_replicas=world.first_replicas,
        keep_ticks=keep_ticks,
    )
    return run(wanted, requests, setup, decide, until=seconds)


def figures(outcome: Outcome) -> dict[str, float]:
    """Return the figures of one run."""
    count = max(1, outcome.requests)
    return {
        "requests": outcome.requests,
        "late_ratio": round(outcome.late_ratio, 5),
        "wait_mean_seconds": round(outcome.wait_seconds / count, 4),
        "wait_p95_seconds": round(percentile(outcome.waits, count, 0.95), 3),
        "wait_p99_seconds": round(percentile(outcome.waits, count, 0.99), 3),
        "gpu_hours": round(outcome.gpu_hours, 2),
        "peak_replicas": outcome.peak_replicas,
        "starts": outcome.starts,
    }


def half(requests: Requests, which: str) -> Requests:
    """Return the first or second half of the trace in time, each from second 0."""
    if which == "whole":
        return requests
    middle = requests[-1][0] / 2
    if which == "first":
        return [r for r in requests if r[0] < middle]
    return [(at - middle, prefill, service) for at, prefill, service in requests if at >= middle]


def main() -> int:
    """Run one replay as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--policy", choices=list(POLICIES), default="hearth")
    parser.add_argument("--start-seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--copies", type=int, default=1, help="each request so many times")
    parser.add_argument("--slots", type=int, default=16, help="requests at once on a replica")
    parser.add_argument("--first", type=int, default=1, help="replicas at the start")
    parser.add_argument("--min", type=int, default=1)
    parser.add_argument("--max", type=int, default=200)
    parser.add_argument("--hold-seconds", type=float, default=300.0)
    parser.add_argument("--half", choices=("whole", "first", "second"), default="whole")
    parser.add_argument("--rates-of", default="", help="model in a file of rates (ServeGen)")
    parser.add_argument("--mean-rps", type=float, default=8.0, help="its mean rate")
    parser.add_argument("--day", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    try:
        if asked.rates_of:
            requests = traces.from_rates(
                asked.trace, asked.rates_of, mean_rps=asked.mean_rps, day=asked.day, rng=rng
            )
        else:
            requests = traces.load(asked.trace, copies=asked.copies, rng=rng)
    except (traces.Unreadable, ValueError, KeyError) as error:
        print(f"autoscale: {error}", file=sys.stderr)
        return 2
    requests = half(requests, asked.half)
    world = World(
        start_seconds=asked.start_seconds,
        slots=asked.slots,
        first_replicas=asked.first,
        min_replicas=asked.min,
        max_replicas=asked.max,
        hold_seconds=asked.hold_seconds,
    )
    outcome = replay(requests, asked.policy, world, seconds=requests[-1][0] + 1)
    names = ("policy", "start_seconds", "seed", "copies", "slots", "half")
    settings = {name: getattr(asked, name) for name in names}
    print(json.dumps({"trace": asked.trace.name, **settings, **figures(outcome)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
