"""Decide how many replicas of each revision there are to be, and which leave. Pure.

Called by `plan`. Without a rollout every replica becomes the live revision. A rollout either lets
the candidate take over a few at a time (rolling, recreate, and a canary that was promoted), or
holds both side by side (a canary, blue/green). When the rollout itself moves on is decided by
`stages`. What serves leaves by drain.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from apps.deployments.reconcile.snapshot import SeenReplica, SeenRollout, Snapshot
from apps.deployments.reconcile.steps import CreateReplica, DrainReplica, Step, StopReplica
from apps.deployments.states import (
    COMING,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
    RolloutStage,
    RolloutStrategy,
)
from apps.fleet.states import HostState

SIDE_BY_SIDE = (RolloutStrategy.CANARY, RolloutStrategy.BLUE_GREEN)


def count(snapshot: Snapshot, kept: Sequence[SeenReplica], now: datetime) -> list[Step]:
    """Return the steps toward the wanted number of replicas of each revision."""
    wanted = wanted_of(snapshot)
    supply = [r for r in kept if not _is_gone(r)]
    rollout = snapshot.rollout
    if rollout is None or snapshot.desired is not DesiredDeployment.RUNNING:
        steps = _take_over(snapshot, supply, wanted, now)
    elif rollout.paused:
        steps = _hold(snapshot, supply, wanted, now)
    elif is_side_by_side(rollout, now):
        steps = _side_by_side(snapshot, rollout, supply, now)
    elif rollout.policy.strategy is RolloutStrategy.RECREATE:
        steps = _recreate(snapshot, supply, wanted, now)
    else:
        steps = _roll(snapshot, rollout, supply, now)
    return steps + _forget_gone(kept, supply, wanted)


def leave_candidate(snapshot: Snapshot, kept: Sequence[SeenReplica], now: datetime) -> list[Step]:
    """Return the drains of a candidate that is given up, as far as live replicas serve instead."""
    if snapshot.rollout is None:
        return []
    live = [r for r in kept if r.revision_id == snapshot.rollout.live.id and not _is_gone(r)]
    others = [r for r in kept if r.revision_id != snapshot.rollout.live.id and not _is_gone(r)]
    keep = max(0, wanted_of(snapshot) - _ready(live))
    return [
        _retire(r, snapshot, now, f"back to revision {snapshot.rollout.live.number}")
        for r in _surplus(others, keep)
    ]


def wanted_of(snapshot: Snapshot) -> int:
    """Return how many replicas are to serve in all."""
    return snapshot.wanted_replicas if snapshot.desired is DesiredDeployment.RUNNING else 0


def is_side_by_side(rollout: SeenRollout, now: datetime) -> bool:
    """Return whether the live revision keeps its full number beside the candidate."""
    if rollout.policy.strategy not in SIDE_BY_SIDE or rollout.stage is RolloutStage.PROMOTING:
        return False
    if rollout.stage is RolloutStage.FLIPPED:
        return now - rollout.stage_at < timedelta(seconds=rollout.policy.keep_seconds)
    return True


def candidates_wanted(snapshot: Snapshot, rollout: SeenRollout) -> int:
    """Return how many candidates the present stage asks for."""
    wanted = wanted_of(snapshot)
    is_canary = rollout.policy.strategy is RolloutStrategy.CANARY
    if is_canary and rollout.stage is not RolloutStage.PROMOTING:
        return rollout.policy.candidates(wanted)
    return wanted


def _take_over(
    snapshot: Snapshot, supply: Sequence[SeenReplica], wanted: int, now: datetime
) -> list[Step]:
    """Bring the one revision up to `wanted` at once; the rest serves until that is ready."""
    new = [r for r in supply if _is_lasting(r, snapshot)]
    old = [r for r in supply if not _is_lasting(r, snapshot)]
    steps: list[Step] = [CreateReplica() for _ in range(wanted - len(new))]
    steps += [_retire(r, snapshot, now, "fewer replicas are wanted") for r in _surplus(new, wanted)]
    keep_old = max(0, wanted - _ready(new))
    return steps + [
        _retire(r, snapshot, now, _why_replaced(r, snapshot)) for r in _surplus(old, keep_old)
    ]


def _roll(
    snapshot: Snapshot, rollout: SeenRollout, supply: Sequence[SeenReplica], now: datetime
) -> list[Step]:
    """Replace a few at a time: at most `max_surge` above and `max_unavailable` below the number.

    What is of an older revision and does not serve leaves first: it counts for nothing.
    """
    wanted, policy = wanted_of(snapshot), rollout.policy
    new = [r for r in supply if _is_lasting(r, snapshot)]
    old = [r for r in supply if not _is_lasting(r, snapshot)]
    keep_old = max(0, wanted - policy.max_unavailable - _ready(new))
    leaving = _surplus(old, keep_old)
    leaving += [
        r
        for r in old
        if r not in leaving
        and r.phase is not ReplicaPhase.READY
        and r.revision_id != snapshot.revision.id
    ]
    steps = [_retire(r, snapshot, now, _why_replaced(r, snapshot)) for r in leaving]
    steps += [_retire(r, snapshot, now, "fewer replicas are wanted") for r in _surplus(new, wanted)]
    room = wanted + policy.max_surge - (len(supply) - len(leaving))
    return steps + [CreateReplica() for _ in range(min(wanted - len(new), room))]


def _recreate(
    snapshot: Snapshot, supply: Sequence[SeenReplica], wanted: int, now: datetime
) -> list[Step]:
    """Let everything of other revisions go, leaving ones too, before anything new comes."""
    others = [r for r in snapshot.replicas if r.revision_id != snapshot.revision.id]
    if not others:
        return _take_over(snapshot, supply, wanted, now)
    return [
        _retire(r, snapshot, now, _why_replaced(r, snapshot))
        for r in others
        if r.desired is DesiredReplica.RUNNING
    ]


def _side_by_side(
    snapshot: Snapshot, rollout: SeenRollout, supply: Sequence[SeenReplica], now: datetime
) -> list[Step]:
    """Hold the live revision at its number beside the candidates; let all others go.

    What serves goes only as far as the live ones serve in its place.
    """
    wanted = wanted_of(snapshot)
    candidates = [r for r in supply if r.revision_id == snapshot.revision.id]
    lives = [r for r in supply if r.revision_id == rollout.live.id]
    strays = [r for r in supply if r not in candidates and r not in lives]
    missing = max(0, wanted - _ready(lives))
    number = candidates_wanted(snapshot, rollout)
    spare = _surplus(strays, max(0, missing - _ready(candidates)))
    return [
        *_created(candidates, snapshot.revision.id, number),
        *_created(lives, rollout.live.id, wanted),
        *_leave(snapshot, candidates, max(number, missing), now),
        *_leave(snapshot, lives, wanted, now),
        *(_retire(r, snapshot, now, "its revision was given up") for r in spare),
    ]


def _created(ours: Sequence[SeenReplica], revision_id: UUID, wanted: int) -> list[Step]:
    lasting = [r for r in ours if not r.host_cordoned]
    return [CreateReplica(revision_id) for _ in range(wanted - len(lasting))]


def _leave(snapshot: Snapshot, ours: Sequence[SeenReplica], most: int, now: datetime) -> list[Step]:
    """Let go what is beyond `most`; on a host that is being emptied, once successors serve."""
    lasting = [r for r in ours if not r.host_cordoned]
    moving = [r for r in ours if r.host_cordoned]
    leaving = [*_surplus(lasting, most), *_surplus(moving, max(0, most - _ready(lasting)))]
    return [_retire(r, snapshot, now, "fewer replicas are wanted") for r in leaving]


def _hold(
    snapshot: Snapshot, supply: Sequence[SeenReplica], wanted: int, now: datetime
) -> list[Step]:
    """Keep both revisions as they are while the rollout is paused; only follow the number."""
    rollout = snapshot.rollout
    if rollout is not None and is_side_by_side(rollout, now):
        return _side_by_side(snapshot, rollout, supply, now)
    missing = range(wanted - len(supply))
    extra = _surplus(supply, wanted + (rollout.policy.max_surge if rollout else 0))
    steps: list[Step] = [CreateReplica() for _ in missing]
    return steps + [_retire(r, snapshot, now, "fewer replicas are wanted") for r in extra]


def _is_lasting(replica: SeenReplica, snapshot: Snapshot) -> bool:
    """Return whether the replica is of the wanted revision, on a host that is not being emptied."""
    return replica.revision_id == snapshot.revision.id and not replica.host_cordoned


def _ready(replicas: Sequence[SeenReplica]) -> int:
    return sum(r.phase is ReplicaPhase.READY for r in replicas)


def _why_replaced(replica: SeenReplica, snapshot: Snapshot) -> str:
    if replica.revision_id != snapshot.revision.id:
        return f"revision {snapshot.revision.number} takes over"
    return "its host is being emptied"


def _is_gone(replica: SeenReplica) -> bool:
    """Return whether a replacement is due: its host is lost, and it with it."""
    return replica.host_state is HostState.LOST and not replica.is_group


def _forget_gone(
    kept: Sequence[SeenReplica], supply: Sequence[SeenReplica], wanted: int
) -> list[Step]:
    """Order lost replicas gone once others serve in their place: no double serving on return."""
    if _ready(supply) < wanted:
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


def make_room_in_place(
    snapshot: Snapshot, kept: Sequence[SeenReplica], now: datetime
) -> list[Step]:
    """Drain one old replica when its successor finds no room beside it and none is coming.

    One at a time: while one leaves, its room is not free yet. Side by side nothing makes room.
    """
    rollout = snapshot.rollout
    if rollout is not None and (rollout.paused or is_side_by_side(rollout, now)):
        return []
    old = [r for r in kept if r.revision_id != snapshot.revision.id]
    coming = any(
        r.host_id and r.phase in COMING for r in kept if r.revision_id == snapshot.revision.id
    )
    leaving = any(
        r.host_id and r.desired is not DesiredReplica.RUNNING and not (_is_gone(r) or r.released)
        for r in snapshot.replicas
    )
    if not old or coming or leaving:
        return []
    victim = _surplus(old, len(old) - 1)[0]
    return [_retire(victim, snapshot, now, "its successor needs its room")]
