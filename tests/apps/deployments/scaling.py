"""Runs of `decide` for tests: a deployment whose traffic a test sets tick by tick."""

from dataclasses import dataclass, field

import msgspec

from apps.deployments.reconcile.autoscale import decide
from apps.deployments.reconcile.scaling.values import (
    TICK_SECONDS,
    Decision,
    Observations,
    Policy,
    State,
)

START = 1_000_000.0
FOUR_EACH = Policy(min_replicas=1, max_replicas=10, target_concurrency=4)


@dataclass
class Deployment:
    """Obeys every decision; replicas are ready `start_seconds` after their order."""

    policy: Policy = FOUR_EACH
    start_seconds: float = 60.0
    ready: int = 1
    at: float = START
    starting: list[float] = field(default_factory=list)
    state: State | None = None
    history: list[Decision] = field(default_factory=list)

    def tick(self, *, obeys: bool = True, now: float | None = None, **seen) -> Decision:
        """Let two seconds pass and decide."""
        self.at += TICK_SECONDS
        now = self.at if now is None else now
        self._come_up()
        given = {
            "at": now,
            "ready": self.ready,
            "starting": tuple(max(0.0, at - self.at) for at in self.starting),
            "start_seconds": self.start_seconds,
            **seen,
        }
        decision = decide(self.policy, self.state, Observations(**given), now)
        self.state = decision.state
        self.history.append(decision)
        if obeys:
            self._obey(decision.wanted)
        return decision

    def run(self, seconds: float, **seen) -> Decision:
        """Tick through `seconds` of the same observations."""
        for _ in range(int(seconds / TICK_SECONDS)):
            last = self.tick(**seen)
        return last

    def set(self, **changes) -> None:
        """Change the policy."""
        self.policy = msgspec.structs.replace(self.policy, **changes)

    @property
    def wanted(self) -> list[int]:
        return [decision.wanted for decision in self.history]

    def _come_up(self) -> None:
        self.ready += sum(at <= self.at for at in self.starting)
        self.starting = [at for at in self.starting if at > self.at]

    def _obey(self, wanted: int) -> None:
        while self.ready + len(self.starting) < wanted:
            self.starting.append(self.at + self.start_seconds)
        while self.ready + len(self.starting) > wanted:
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1


def steady(concurrency: float, service_seconds: float = 4.0) -> dict:
    """Return the observations of constant load that has the room it needs."""
    return {
        "in_flight": round(concurrency),
        "admitted": round(concurrency * TICK_SECONDS / service_seconds),
    }
