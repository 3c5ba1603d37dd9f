"""Decide the next steps of one deployment. Pure: no clock, no rows, no I/O.

Called by `loop` on every pass and level-triggered: it looks only at the snapshot, so a lost
doorbell, a crash between steps or two passes in a row change nothing. An empty list means that
nothing is to be done now. Applying the steps and planning again comes to rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from apps.deployments.reconcile.placement import NotPlaced, Placed, place
from apps.deployments.reconcile.snapshot import SeenReplica, Snapshot
from apps.deployments.states import (
    COMING,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
)
from apps.fleet.states import HostState

BACKOFF_FIRST_SECONDS = 5.0
BACKOFF_CAP_SECONDS = 300.0
FORGIVEN_AFTER_SECONDS = 300.0
"""A replica that has served this long starts its back-off anew."""
ROUTES_SETTLE_SECONDS = 1.0
"""How long gateways may take to stop routing to a draining replica."""


@dataclass(frozen=True)
class CreateReplica:
    """Add a replica of the newest revision, not yet placed."""


@dataclass(frozen=True)
class PlaceReplica:
    replica_id: UUID
    placed: Placed


@dataclass(frozen=True)
class KeepWaiting:
    """No host has room: say so on the replica."""

    replica_id: UUID
    not_placed: NotPlaced


@dataclass(frozen=True)
class DrainReplica:
    replica_id: UUID
    until: datetime
    why: str


@dataclass(frozen=True)
class StopReplica:
    """Order the replica gone: it serves nothing, or its drain is over."""

    replica_id: UUID
    why: str


@dataclass(frozen=True)
class ScheduleRetry:
    replica_id: UUID
    at: datetime


@dataclass(frozen=True)
class RetryReplica:
    replica_id: UUID


@dataclass(frozen=True)
class ForgetFailures:
    replica_id: UUID


@dataclass(frozen=True)
class MarkLost:
    replica_id: UUID


@dataclass(frozen=True)
class RemoveDeployment:
    """Nothing of it is left anywhere: the row can go."""


type Step = (
    CreateReplica
    | PlaceReplica
    | KeepWaiting
    | DrainReplica
    | StopReplica
    | ScheduleRetry
    | RetryReplica
    | ForgetFailures
    | MarkLost
    | RemoveDeployment
)


def plan(snapshot: Snapshot, now: datetime) -> list[Step]:
    """Return the steps that move the deployment toward what is wanted; empty means at rest."""
    if snapshot.desired is DesiredDeployment.DELETED and not snapshot.replicas:
        return [RemoveDeployment()]
    kept = [r for r in snapshot.replicas if r.desired is DesiredReplica.RUNNING]
    leaving = [r for r in snapshot.replicas if r.desired is DesiredReplica.DRAINED]
    return [
        *_lost(kept),
        *_finish_drains(leaving, now),
        *_failures(kept, now),
        *_count(snapshot, kept, now),
        *_placements(snapshot, kept),
    ]


def backoff_seconds(failures: int) -> float:
    """Return the wait before the next try after `failures` failures in a row (1 or more)."""
    doublings = min(max(failures, 1) - 1, 10)
    return float(min(BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2**doublings))


def _lost(kept: Sequence[SeenReplica]) -> list[Step]:
    may_be_lost = ReplicaPhase.LOST, ReplicaPhase.FAILED, ReplicaPhase.PENDING
    return [
        MarkLost(r.id)
        for r in kept
        if r.host_state is HostState.LOST and r.phase not in may_be_lost
    ]


def _finish_drains(leaving: Sequence[SeenReplica], now: datetime) -> list[Step]:
    steps: list[Step] = []
    for replica in leaving:
        if replica.drain_until is not None and now >= replica.drain_until:
            steps.append(StopReplica(replica.id, "its drain time is over"))
        elif _is_idle(replica, now):
            steps.append(StopReplica(replica.id, "it has finished its requests"))
    return steps


def _is_idle(replica: SeenReplica, now: datetime) -> bool:
    if replica.phase is not ReplicaPhase.DRAINING:
        return True
    settled = now - replica.phase_at >= timedelta(seconds=ROUTES_SETTLE_SECONDS)
    return settled and replica.in_flight == 0


def _failures(kept: Sequence[SeenReplica], now: datetime) -> list[Step]:
    steps: list[Step] = []
    for replica in kept:
        if replica.phase is ReplicaPhase.FAILED:
            if replica.retry_at is None:
                wait = timedelta(seconds=backoff_seconds(replica.failures))
                steps.append(ScheduleRetry(replica.id, now + wait))
            elif now >= replica.retry_at and replica.host_state is not HostState.LOST:
                steps.append(RetryReplica(replica.id))
        elif _is_forgiven(replica, now):
            steps.append(ForgetFailures(replica.id))
    return steps


def _is_forgiven(replica: SeenReplica, now: datetime) -> bool:
    return (
        replica.phase is ReplicaPhase.READY
        and replica.failures > 0
        and now - replica.phase_at >= timedelta(seconds=FORGIVEN_AFTER_SECONDS)
    )


def _count(snapshot: Snapshot, kept: Sequence[SeenReplica], now: datetime) -> list[Step]:
    """Return the steps toward the wanted number of replicas of the newest revision."""
    wanted = snapshot.wanted_replicas if snapshot.desired is DesiredDeployment.RUNNING else 0
    supply = [r for r in kept if not _is_gone(r)]
    new = [r for r in supply if _is_lasting(r, snapshot)]
    old = [r for r in supply if not _is_lasting(r, snapshot)]
    steps: list[Step] = [CreateReplica() for _ in range(wanted - len(new))]
    steps += [_retire(r, snapshot, now, "fewer replicas are wanted") for r in _surplus(new, wanted)]
    ready_new = sum(r.phase is ReplicaPhase.READY for r in new)
    keep_old = max(0, wanted - ready_new)
    steps += [
        _retire(r, snapshot, now, _why_replaced(r, snapshot)) for r in _surplus(old, keep_old)
    ]
    return steps + _forget_gone(kept, supply, wanted)


def _is_lasting(replica: SeenReplica, snapshot: Snapshot) -> bool:
    """Return whether the replica is of the newest revision, on a host that is not being emptied."""
    return replica.revision_id == snapshot.revision.id and not replica.host_cordoned


def _why_replaced(replica: SeenReplica, snapshot: Snapshot) -> str:
    if replica.revision_id != snapshot.revision.id:
        return f"revision {snapshot.revision.number} takes over"
    return "its host is being emptied"


def _is_gone(replica: SeenReplica) -> bool:
    """Return whether a replacement is due: its host is lost, and it with it."""
    return replica.host_state is HostState.LOST


def _forget_gone(
    kept: Sequence[SeenReplica], supply: Sequence[SeenReplica], wanted: int
) -> list[Step]:
    """Order lost replicas gone once others serve in their place: no double serving on return."""
    serving = sum(r.phase is ReplicaPhase.READY for r in supply)
    if serving < wanted:
        return []
    return [StopReplica(r.id, "it was replaced elsewhere") for r in kept if _is_gone(r)]


_RETIRE_ORDER = {
    ReplicaPhase.FAILED: 0,
    ReplicaPhase.PENDING: 1,
    ReplicaPhase.FETCHING: 2,
    ReplicaPhase.STARTING: 3,
    ReplicaPhase.LOST: 4,
    ReplicaPhase.ASLEEP: 5,
    ReplicaPhase.READY: 6,
}


def _surplus(replicas: Sequence[SeenReplica], wanted: int) -> list[SeenReplica]:
    """Return those beyond `wanted`: what serves is kept, and of equals the oldest."""
    by_value = sorted(
        replicas, key=lambda r: (-_RETIRE_ORDER.get(r.phase, 6), r.created_at, str(r.id))
    )
    return by_value[wanted:]


def _retire(replica: SeenReplica, snapshot: Snapshot, now: datetime, why: str) -> Step:
    if replica.phase is ReplicaPhase.READY:
        return DrainReplica(replica.id, now + timedelta(seconds=snapshot.drain_seconds), why)
    return StopReplica(replica.id, why)


def _placements(snapshot: Snapshot, kept: Sequence[SeenReplica]) -> list[Step]:
    """Place at most one replica a pass: the next snapshot counts its reservation."""
    if snapshot.desired is not DesiredDeployment.RUNNING:
        return []
    waiting = [r for r in kept if r.host_id is None and r.phase is ReplicaPhase.PENDING]
    if not waiting:
        return []
    first = min(waiting, key=lambda r: (r.created_at, str(r.id)))
    found = place(snapshot.revision, snapshot.constraints, snapshot.hosts, _replicas_per_host(kept))
    if isinstance(found, Placed):
        return [PlaceReplica(first.id, found)]
    steps: list[Step] = [KeepWaiting(r.id, found) for r in waiting if r.reason != found.why]
    return steps + _make_room_in_place(snapshot, kept)


def _make_room_in_place(snapshot: Snapshot, kept: Sequence[SeenReplica]) -> list[Step]:
    """Stop one old replica when its successor finds no room beside it and none is coming."""
    old = [r for r in kept if r.revision_id != snapshot.revision.id]
    coming = any(
        r.host_id and r.phase in COMING for r in kept if r.revision_id == snapshot.revision.id
    )
    if not old or coming:
        return []
    victim = _surplus(old, len(old) - 1)[0]
    return [StopReplica(victim.id, "its successor needs its room")]


def _replicas_per_host(kept: Sequence[SeenReplica]) -> dict[UUID, int]:
    counts: dict[UUID, int] = {}
    for replica in kept:
        if replica.host_id is not None:
            counts[replica.host_id] = counts.get(replica.host_id, 0) + 1
    return counts
