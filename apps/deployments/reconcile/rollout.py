"""Decide how many replicas of each revision there are to be, and which leave. Pure.

Called by `plan`. The newest revision is brought up to what is wanted; an older one keeps serving
until as many of the newest are ready. What serves leaves by drain.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from apps.deployments.reconcile.snapshot import SeenReplica, Snapshot
from apps.deployments.reconcile.steps import CreateReplica, DrainReplica, Step, StopReplica
from apps.deployments.states import COMING, DesiredDeployment, ReplicaPhase
from apps.fleet.states import HostState


def count(snapshot: Snapshot, kept: Sequence[SeenReplica], now: datetime) -> list[Step]:
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


def make_room_in_place(snapshot: Snapshot, kept: Sequence[SeenReplica]) -> list[Step]:
    """Stop one old replica when its successor finds no room beside it and none is coming."""
    old = [r for r in kept if r.revision_id != snapshot.revision.id]
    coming = any(
        r.host_id and r.phase in COMING for r in kept if r.revision_id == snapshot.revision.id
    )
    if not old or coming:
        return []
    victim = _surplus(old, len(old) - 1)[0]
    return [StopReplica(victim.id, "its successor needs its room")]
