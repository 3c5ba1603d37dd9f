"""What the autoscaler sees: gateways' counts and the replicas' rows, as `Observations`.

One round trip to Redis and one query a tick, however many deployments there are. Called by
`scaler`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from agents.wire import ReplicaSample
from apps.deployments.models import Replica
from apps.deployments.reconcile.scaling.values import Observations
from apps.deployments.states import COMING, DesiredReplica, ReplicaPhase
from apps.telemetry.live import Newest
from gateway.wire import Counts

OVERDUE = 3.0
"""A start that takes so many times its p90 is stuck."""
LEAST_OVERDUE_SECONDS = 180.0
FIRST_START_SECONDS = 60.0
"""Until a deployment has measured its own start."""
_GATEWAY_REMEMBERED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class SeenReplicas:
    """The wanted replicas of one deployment, sorted by what they are good for."""

    ready: tuple[UUID, ...] = ()
    ages: tuple[float, ...] = ()
    """Of those that are coming: seconds since their order."""
    failed: int = 0
    unplaced: int = 0
    missing: str = ""


@dataclass(slots=True)
class Traffic:
    """Turns gateways' cumulative counts into what happened since the tick before."""

    _totals: dict[tuple[str, str], int] = field(default_factory=dict)
    """`(gateway, deployment)` -> requests so far."""
    _heard: dict[str, float] = field(default_factory=dict)
    _is_first: bool = True

    def take(self, newest: Newest | None, now: float) -> dict[str, tuple[int, int, int]] | None:
        """Return `(in flight, queued, admitted)` by deployment; None while no gateway tells."""
        if newest is None or not newest.gateways:
            return None
        found: dict[str, tuple[int, int, int]] = {}
        for gateway, seen in newest.gateways.items():
            self._heard[gateway] = now
            for name, counts in seen.reading.deployments.items():
                in_flight, queued, admitted = found.get(name, (0, 0, 0))
                found[name] = (
                    in_flight + counts.in_flight,
                    queued + counts.queued,
                    admitted + self._admitted(gateway, name, counts),
                )
        self._is_first = False
        self._forget(now)
        return found

    def _admitted(self, gateway: str, name: str, counts: Counts) -> int:
        """Return what came since the reading before: all of it for a gateway that began since."""
        key = gateway, name
        before = self._totals.get(key, counts.requests_total if self._is_first else 0)
        self._totals[key] = counts.requests_total
        return max(0, counts.requests_total - before)

    def _forget(self, now: float) -> None:
        gone = {g for g, at in self._heard.items() if now - at > _GATEWAY_REMEMBERED_SECONDS}
        if gone:
            self._heard = {g: at for g, at in self._heard.items() if g not in gone}
            self._totals = {key: n for key, n in self._totals.items() if key[0] not in gone}


class _Row(NamedTuple):
    deployment_id: UUID
    id: UUID
    phase: str
    host_id: UUID | None
    phase_at: datetime
    created_at: datetime
    ready_at: datetime | None
    failures: int
    reason: str


def replicas_of(deployments: Iterable[UUID], now: datetime) -> Mapping[UUID, SeenReplicas]:
    """Return the wanted replicas of these deployments. One query."""
    rows = (
        Replica.objects.exclude(phase=ReplicaPhase.STOPPED)
        .filter(desired=DesiredReplica.RUNNING)
        .values_list(*_Row._fields)
    )
    wanted = set(deployments)
    grouped: dict[UUID, list[_Row]] = defaultdict(list)
    for values in rows:
        if values[0] in wanted:
            grouped[values[0]].append(_Row(*values))
    return {key: _sorted(group, now) for key, group in grouped.items()}


def _sorted(rows: list[_Row], now: datetime) -> SeenReplicas:
    waits = [r for r in rows if r.phase == ReplicaPhase.PENDING and r.host_id is None and r.reason]
    coming = [r for r in rows if r.phase in COMING and r not in waits]
    return SeenReplicas(
        ready=tuple(r.id for r in rows if r.phase == ReplicaPhase.READY),
        ages=tuple(max(0.0, (now - _begun(r)).total_seconds()) for r in coming),
        failed=sum(r.phase == ReplicaPhase.FAILED for r in rows),
        unplaced=len(waits),
        missing=waits[0].reason if waits else "",
    )


def _begun(row: _Row) -> datetime:
    """Return when this start began: one that was up or failed before starts anew."""
    return row.phase_at if row.failures or row.ready_at else row.created_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Aside:
    """What is known of a deployment beside its counts and replicas."""

    start_seconds: float = FIRST_START_SECONDS
    seasonal: float = 0.0
    ttft_p95_seconds: float | None = None
    rung: bool = False


def observations(
    at: float,
    counts: tuple[int, int, int],
    replicas: SeenReplicas,
    samples: Mapping[str, ReplicaSample],
    aside: Aside,
) -> Observations:
    """Return one tick's observations of one deployment."""
    overdue = max(LEAST_OVERDUE_SECONDS, OVERDUE * aside.start_seconds)
    coming = [age for age in replicas.ages if age <= overdue]
    engines = [samples[key] for r in replicas.ready if (key := str(r)) in samples]
    in_flight, queued, admitted = counts
    return Observations(
        at=at,
        in_flight=in_flight,
        queued=queued,
        admitted=admitted,
        ready=len(replicas.ready),
        starting=tuple(round(max(0.0, aside.start_seconds - age), 1) for age in coming),
        stuck=replicas.failed + len(replicas.ages) - len(coming),
        unplaced=replicas.unplaced,
        missing=replicas.missing,
        start_seconds=aside.start_seconds,
        running=_sum(s.running for s in engines),
        waiting=_sum(s.waiting for s in engines),
        ttft_p95_seconds=aside.ttft_p95_seconds,
        seasonal=aside.seasonal,
        rung=aside.rung,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """Return the sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
