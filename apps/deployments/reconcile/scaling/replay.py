"""`python -m apps.deployments.reconcile.scaling.replay`: one what-if, JSON in, JSON out.

A program of its own, without Django: a day of traffic takes seconds of a core, which the process
that answers people must not spend. Started by `traffic.what_if`.
"""

import sys

import msgspec

from apps.deployments.reconcile.autoscale import decide
from apps.deployments.reconcile.scaling.simulate import Outcome, Request, Setup, percentile, run
from apps.deployments.reconcile.scaling.values import Policy

MOST_STEPS = 400
"""Points of the line of wanted replicas that are answered."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic, and the policies that it should meet."""

    requests: list[Request]
    """Sorted by arrival, in seconds from the window's start."""
    seconds: float
    start_seconds: float
    slots: int
    policies: list[Policy]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy makes of it."""

    requests: int
    late_ratio: float
    """Of requests whose first token comes later than two seconds."""
    wait_p50_seconds: float
    wait_p95_seconds: float
    wait_p99_seconds: float
    starts: int
    waited_for_start: int
    """Requests that came while nothing was ready."""
    peak_replicas: int
    replica_hours: float
    steps: list[tuple[float, int]]
    """`(second, wanted replicas)` at each change, the first at 0."""


def answer(question: Question) -> list[Answer]:
    """Return the answer for each policy."""
    return [_replayed(question, policy) for policy in question.policies]


def _replayed(question: Question, policy: Policy) -> Answer:
    first = min(max(1, policy.min_replicas), max(1, policy.max_replicas))
    setup = Setup(
        start_seconds=question.start_seconds,
        slots=question.slots,
        first_replicas=first,
        fair_seconds=0.0,
    )
    found = run(policy, question.requests, setup, decide, until=question.seconds)
    waits = [percentile(found.waits, found.requests, ratio) for ratio in (0.5, 0.95, 0.99)]
    return Answer(
        requests=found.requests,
        late_ratio=round(found.late_ratio, 5),
        wait_p50_seconds=round(waits[0], 3),
        wait_p95_seconds=round(waits[1], 3),
        wait_p99_seconds=round(waits[2], 3),
        starts=found.starts,
        waited_for_start=found.cold_waits,
        peak_replicas=found.peak_replicas,
        replica_hours=round(found.gpu_hours, 3),
        steps=_steps(first, found),
    )


def _steps(first: int, found: Outcome) -> list[tuple[float, int]]:
    steps = [(0.0, first), *((at, wanted) for at, wanted, _ in found.decisions)]
    return steps[:: max(1, -(-len(steps) // MOST_STEPS))]


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.buffer.write(msgspec.json.encode(answer(asked)))
