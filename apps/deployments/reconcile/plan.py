"""Decide the next steps of one deployment. Pure: no clock, no rows, no I/O.

Called by `loop` on every pass and level-triggered: it looks only at the snapshot, so a lost
doorbell, a crash between steps or two passes in a row change nothing. An empty list means that
nothing is to be done now. Applying the steps and planning again comes to rest.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from apps.deployments.reconcile import rollout
from apps.deployments.reconcile.placement import Placed, place
from apps.deployments.reconcile.snapshot import SeenReplica, Snapshot
from apps.deployments.reconcile.steps import (
    ForgetFailures,
    KeepWaiting,
    MarkLost,
    PlaceReplica,
    RemoveDeployment,
    RetryReplica,
    ScheduleRetry,
    Step,
    StopReplica,
)
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState

BACKOFF_FIRST_SECONDS = 5.0
BACKOFF_CAP_SECONDS = 300.0
FORGIVEN_AFTER_SECONDS = 300.0
"""A replica that has served this long starts its back-off anew."""
ROUTES_SETTLE_SECONDS = 1.0
"""How long gateways may take to stop routing to a draining replica."""


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
        *rollout.count(snapshot, kept, now),
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
    return steps + rollout.make_room_in_place(snapshot, kept)


def _replicas_per_host(kept: Sequence[SeenReplica]) -> dict[UUID, int]:
    counts: dict[UUID, int] = {}
    for replica in kept:
        if replica.host_id is not None:
            counts[replica.host_id] = counts.get(replica.host_id, 0) + 1
    return counts
