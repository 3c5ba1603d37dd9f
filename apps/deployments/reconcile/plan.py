"""Decide the next steps of one deployment. Pure: no clock, no rows, no I/O.

Called by `loop` on every pass and level-triggered: it looks only at the snapshot, so a lost
doorbell, a crash between steps or two passes in a row change nothing. An empty list means that
nothing is to be done now. Applying the steps and planning again comes to rest.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from apps.deployments.reconcile import groups, ladder, rollout, stages
from apps.deployments.reconcile.placement import NotPlaced, Placed
from apps.deployments.reconcile.snapshot import SeenHost, SeenReplica, Snapshot
from apps.deployments.reconcile.steps import (
    ForgetFailures,
    KeepWaiting,
    MarkLost,
    PlaceReplica,
    RemoveDeployment,
    ReplaceGroup,
    RetryReplica,
    RollBack,
    ScheduleRetry,
    Step,
    StopReplica,
)
from apps.deployments.states import COMING, DesiredDeployment, DesiredReplica, ReplicaPhase
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
    wanted = [r for r in snapshot.replicas if r.desired is DesiredReplica.RUNNING]
    stranded = [r for r in wanted if _is_stranded(r)]
    kept = [r for r in wanted if r not in stranded]
    sleepers = [r for r in snapshot.replicas if r.desired is DesiredReplica.ASLEEP]
    leaving = [r for r in snapshot.replicas if r.desired is DesiredReplica.DRAINED]
    moves = stages.decide(snapshot, kept, now)
    if any(isinstance(move, RollBack) for move in moves):
        # First it drains, then it is given up: until then it keeps its small share.
        return [*rollout.leave_candidate(snapshot, kept, now), *moves]
    return [
        *_lost([*kept, *sleepers]),
        *_give_up(stranded),
        *_finish_drains(leaving, now),
        *groups.end(snapshot.replicas),
        *_failures([*kept, *sleepers], now),
        *ladder.climb(
            snapshot, rollout.count(snapshot, kept, now), now, lambda r: _is_idle(r, now)
        ),
        *_placements(snapshot, kept, sleepers, now),
        *_replace_groups(kept, now),
        *moves,
    ]


def may_have_work(snapshot: Snapshot) -> bool:
    """Return whether a glance tells that `plan` has steps: a replica that was never tried to place.

    False says nothing; then ask `plan`, which for such a replica weighs every host.
    """
    return snapshot.desired is DesiredDeployment.RUNNING and any(
        r.phase is ReplicaPhase.PENDING and r.host_id is None and not r.reason
        for r in snapshot.replicas
    )


def backoff_seconds(failures: int) -> float:
    """Return the wait before the next try after `failures` failures in a row (1 or more)."""
    doublings = min(max(failures, 1) - 1, 10)
    return float(min(BACKOFF_CAP_SECONDS, BACKOFF_FIRST_SECONDS * 2**doublings))


def _lost(kept: Sequence[SeenReplica]) -> list[Step]:
    may_be_lost = ReplicaPhase.LOST, ReplicaPhase.FAILED, ReplicaPhase.PENDING
    return [
        MarkLost(r.id)
        for r in kept
        if r.host_state is HostState.LOST and r.phase not in may_be_lost and not r.is_group
    ]


def _finish_drains(leaving: Sequence[SeenReplica], now: datetime) -> list[Step]:
    steps: list[Step] = []
    for replica in leaving:
        if why := groups.why_broken(replica):
            steps.append(StopReplica(replica.id, why))
        elif replica.drain_until is not None and now >= replica.drain_until:
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
        if replica.phase is ReplicaPhase.FAILED and replica.is_group:
            continue  # another takes its place: `_replace_groups`
        if replica.phase is ReplicaPhase.FAILED:
            if replica.retry_at is None:
                wait = timedelta(seconds=backoff_seconds(replica.failures))
                steps.append(ScheduleRetry(replica.id, now + wait))
            elif now >= replica.retry_at and replica.host_state is not HostState.LOST:
                steps.append(RetryReplica(replica.id))
        elif _is_forgiven(replica, now):
            steps.append(ForgetFailures(replica.id))
    return steps


def _replace_groups(kept: Sequence[SeenReplica], now: datetime) -> list[Step]:
    """Let another take the place of each group that is broken, after a back-off as of one replica.

    The last of the steps: one that the others have let go is not replaced. A lost host is not the
    replica's failure.
    """
    steps: list[Step] = []
    for replica in kept:
        if not (why := groups.why_broken(replica)):
            continue
        is_lost = any(member.host_state is HostState.LOST for member in replica.members)
        is_counted = is_lost or replica.phase is ReplicaPhase.FAILED
        failures = replica.failures + (not is_counted)
        rest = timedelta(seconds=backoff_seconds(failures))
        steps.append(ReplaceGroup(replica.id, why, failures, None if is_lost else now + rest))
    return steps


def _is_forgiven(replica: SeenReplica, now: datetime) -> bool:
    return (
        replica.phase is ReplicaPhase.READY
        and replica.failures > 0
        and now - replica.phase_at >= timedelta(seconds=FORGIVEN_AFTER_SECONDS)
    )


def _placements(
    snapshot: Snapshot,
    kept: Sequence[SeenReplica],
    sleepers: Sequence[SeenReplica],
    now: datetime,
) -> list[Step]:
    """Place every replica of one revision that waits, those that serve before sleepers, each on
    what the ones before it left."""
    if snapshot.desired is not DesiredDeployment.RUNNING:
        return []
    waiting = [r for r in (*kept, *sleepers) if _waits(r, now)]
    if not waiting:
        return []
    waiting.sort(key=lambda r: (_sleeps(r), r.created_at, r.id.int))
    waiting = [r for r in waiting if r.revision_id == waiting[0].revision_id]
    revision, around = snapshot.revision_of(waiting[0]), _replicas_per_host([*kept, *sleepers])

    def place_on(hosts: Sequence[SeenHost], count: int = 1) -> list[Placed | NotPlaced]:
        return groups.place(revision, snapshot.constraints, hosts, around, count)

    found = place_on(snapshot.hosts, len(waiting))
    steps: list[Step] = [
        PlaceReplica(r.id, place)
        for r, place in zip(waiting, found, strict=False)
        if isinstance(place, Placed)
    ]
    last = found[-1]
    if isinstance(last, NotPlaced):
        left = waiting[len(steps) :]
        steps += [KeepWaiting(r.id, last) for r in left if r.reason != last.why]
    if isinstance(found[0], NotPlaced):
        if not _sleeps(waiting[0]):
            steps += ladder.make_room(snapshot, snapshot.sleepers, lambda h: place_on(h)[0])
        steps += rollout.make_room_in_place(snapshot, kept, now)
    return steps


def _waits(replica: SeenReplica, now: datetime) -> bool:
    """Return whether `replica` is to be placed now."""
    rested = replica.retry_at is None or now >= replica.retry_at
    return replica.host_id is None and replica.phase is ReplicaPhase.PENDING and rested


def _sleeps(replica: SeenReplica) -> bool:
    return replica.desired is DesiredReplica.ASLEEP


def _is_stranded(replica: SeenReplica) -> bool:
    """Return whether a GPU that it was placed on vanished before it served."""
    return bool(replica.missing_gpus) and replica.phase in (*COMING, ReplicaPhase.FAILED)


def _give_up(stranded: Sequence[SeenReplica]) -> list[Step]:
    """Order gone what can only start elsewhere."""
    return [
        StopReplica(r.id, f"GPU {', '.join(r.missing_gpus)} is gone from its host")
        for r in stranded
    ]


def _replicas_per_host(kept: Sequence[SeenReplica]) -> dict[UUID, int]:
    counts: dict[UUID, int] = {}
    for replica in kept:
        for host_id in {replica.host_id, *(m.host_id for m in replica.members)}:
            if host_id is not None:
                counts[host_id] = counts.get(host_id, 0) + 1
    return counts
