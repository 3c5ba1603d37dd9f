"""Say in a word and a sentence what a deployment is. Pure; used by `apply` after each pass."""

from apps.deployments.reconcile.snapshot import SeenReplica, SeenRollout, Snapshot
from apps.deployments.states import (
    COMING,
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
    RolloutStage,
)

CRASH_LOOP_FAILURES = 3
"""Failures in a row after which a deployment that serves nothing is `failed`, not `starting`."""


def summarize(snapshot: Snapshot) -> tuple[DeploymentPhase, str]:
    """Return the deployment's phase and the reason for it (empty when all is well)."""
    if snapshot.desired is not DesiredDeployment.RUNNING:
        return _stopping(snapshot)
    kept = [r for r in snapshot.replicas if r.desired is DesiredReplica.RUNNING]
    ready = sum(r.phase is ReplicaPhase.READY for r in kept)
    if snapshot.wanted_replicas == 0:
        return _at_zero(snapshot)
    broken = [r for r in kept if _is_broken(r)]
    if ready == 0:
        return _not_serving(kept, broken)
    return _serving(snapshot, ready, kept, broken)


def _is_broken(replica: SeenReplica) -> bool:
    """Return whether it is down, or rests before it takes the place of a group that broke."""
    rests = replica.host_id is None and replica.retry_at is not None
    return rests or replica.phase in (ReplicaPhase.FAILED, ReplicaPhase.LOST)


def _at_zero(snapshot: Snapshot) -> tuple[DeploymentPhase, str]:
    if _leaving(snapshot):
        return DeploymentPhase.SCALING, "the last replica is leaving"
    if snapshot.wakes_on_request:
        return DeploymentPhase.ASLEEP, "at zero: the first request brings a replica back"
    return DeploymentPhase.STOPPED, "scaled to zero by hand"


def _stopping(snapshot: Snapshot) -> tuple[DeploymentPhase, str]:
    left = len(snapshot.replicas)
    verb = "deleted" if snapshot.desired is DesiredDeployment.DELETED else "stopped"
    if left:
        return DeploymentPhase.SCALING, f"is being {verb}: {left} left"
    return DeploymentPhase.STOPPED, f"{verb} by hand"


def _not_serving(kept: list[SeenReplica], broken: list[SeenReplica]) -> tuple[DeploymentPhase, str]:
    hopeless = [r for r in broken if r.failures >= CRASH_LOOP_FAILURES]
    if broken and len(hopeless) == len(kept):
        return DeploymentPhase.FAILED, hopeless[0].reason
    reasons = [r.reason for r in (*broken, *kept) if r.reason]
    return DeploymentPhase.STARTING, reasons[0] if reasons else ""


def _serving(
    snapshot: Snapshot, ready: int, kept: list[SeenReplica], broken: list[SeenReplica]
) -> tuple[DeploymentPhase, str]:
    wanted = snapshot.wanted_replicas
    if broken:
        return DeploymentPhase.DEGRADED, f"{ready} of {wanted} serve: {broken[0].reason}"
    if snapshot.rollout is not None:
        return DeploymentPhase.SCALING, _rolling(snapshot, snapshot.rollout)
    if any(r.revision_id != snapshot.revision.id for r in kept):
        return DeploymentPhase.SCALING, f"revision {snapshot.revision.number} is taking over"
    if ready < wanted:
        waiting = next((r.reason for r in kept if r.phase in COMING and r.reason), "")
        return DeploymentPhase.SCALING, waiting or f"{ready} of {wanted} serve"
    if leaving := _leaving(snapshot):
        return DeploymentPhase.SCALING, f"{leaving} leaving"
    return DeploymentPhase.READY, ""


def _rolling(snapshot: Snapshot, rollout: SeenRollout) -> str:
    """Return how far the rollout is, in a sentence without a number that moves each second."""
    number = snapshot.revision.number
    if rollout.paused:
        return f"the rollout of revision {number} is paused"
    match rollout.stage:
        case RolloutStage.SHADOWING:
            return f"revision {number} gets copies of requests"
        case RolloutStage.CANARY:
            return f"revision {number} serves a share and is judged"
        case RolloutStage.FLIPPED:
            return f"revision {number} serves all; revision {rollout.live.number} is kept a while"
        case _:
            return f"revision {number} is taking over"


def _leaving(snapshot: Snapshot) -> int:
    """Return how many are more than what is wanted; sleepers are meant to be there."""
    sleepers = sum(r.desired is DesiredReplica.ASLEEP for r in snapshot.replicas)
    return max(0, len(snapshot.replicas) - sleepers - snapshot.wanted_replicas)
