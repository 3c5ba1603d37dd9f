"""Write rollouts: begin, move on, pause, end. Called by `actions` (people) and `reconcile.moves`.

At most one rollout of a deployment is open; a constraint holds that. Every move is guarded by
`state = open`: what was closed meanwhile moves no more. Callers hold a transaction.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from apps.deployments import observed, rollout_policy
from apps.deployments.models import Decision, Deployment, Replica, Revision, Rollout
from apps.deployments.rollout_policy import BadPolicy, RolloutPolicy
from apps.deployments.states import (
    DesiredDeployment,
    ReplicaPhase,
    RolloutStage,
    RolloutState,
    RolloutStrategy,
)
from apps.deployments.verdict import Verdict
from apps.lib import doorbell, live
from apps.lib.problems import Problem, of_field


def policy_of(deployment: Deployment) -> RolloutPolicy:
    """Return how the deployment's next change takes over."""
    return rollout_policy.stored(deployment.rollout)


def checked(given: dict[str, Any], base: RolloutPolicy) -> dict[str, Any]:
    """Return `base` with `given` over it, as JSON. Raises Problem 400 naming the field."""
    try:
        return rollout_policy.to_json(rollout_policy.parse(given, base))
    except BadPolicy as error:
        field = f"rollout.{error.field}"
        detail = f"{field}: {error}."
        raise of_field(400, "invalid", field, str(error), detail=detail) from error


def begin(
    deployment: Deployment, candidate: Revision, *, actor: str, now: datetime, is_way_back: bool
) -> Rollout | None:
    """Let `candidate` take over; None if nothing runs that it could take over from.

    A way back to settings that served before is not judged again, and what never served is nothing
    to judge by: both roll.
    """
    close(deployment, RolloutState.SUPERSEDED, f"revision {candidate.number} was ordered", now=now)
    replicas = Replica.objects.filter(deployment=deployment)
    is_running = deployment.desired == DesiredDeployment.RUNNING
    live_revision = deployment.live
    if live_revision is None or not (
        is_running and replicas.exclude(phase=ReplicaPhase.STOPPED).exists()
    ):
        _make_live(deployment, candidate)
        return None
    live_served = replicas.filter(revision=live_revision, ready_at__isnull=False).exists()
    policy = rollout_policy.to_json(policy_of(deployment))
    is_canary = policy["strategy"] == RolloutStrategy.CANARY
    if not live_served or (is_way_back and is_canary):
        policy |= {"strategy": RolloutStrategy.ROLLING.value, "shadow_ratio": 0.0}
    return Rollout.objects.create(
        deployment=deployment,
        live=live_revision,
        candidate=candidate,
        policy=policy,
        stage_at=now,
        progressed_at=now,
        live_served=live_served,
        created_by=actor,
        created_at=now,
    )


def close(
    deployment: Deployment, state: RolloutState, reason: str, *, now: datetime
) -> Rollout | None:
    """End the open rollout in `state`; None if there is none."""
    rollout = open_of(deployment)
    if rollout is None:
        return None
    rollout.state, rollout.reason, rollout.closed_at = state, reason, now
    rollout.paused = False
    rollout.save(update_fields=["state", "reason", "closed_at", "paused"])
    if state is RolloutState.PROMOTED:
        _make_live(deployment, rollout.candidate)
    return rollout


def open_of(deployment: Deployment) -> Rollout | None:
    """Return the open rollout with its revisions, locked until the transaction ends."""
    return (
        Rollout.objects.select_for_update(of=("self",))
        .select_related("live", "candidate")
        .filter(deployment=deployment, state=RolloutState.OPEN)
        .first()
    )


def required(deployment: Deployment) -> Rollout:
    """Return the open rollout. Raises Problem 409 `no_rollout`."""
    rollout = open_of(deployment)
    if rollout is None:
        raise Problem(
            409,
            "no_rollout",
            f"{deployment.name} has no rollout under way; change it to start one.",
        )
    return rollout


def advance(rollout: Rollout, stage: RolloutStage, *, now: datetime) -> None:
    """Take the next stage; its time and its deadline begin."""
    Rollout.objects.filter(pk=rollout.pk, state=RolloutState.OPEN).update(
        stage=stage, stage_at=now, progressed_at=now, paused=False, reason=""
    )


def begin_deadline_anew(deployment: Deployment, *, now: datetime) -> None:
    """Give an open rollout its whole time again: the deployment did not run meanwhile."""
    Rollout.objects.filter(deployment=deployment, state=RolloutState.OPEN).update(progressed_at=now)


def pause(rollout: Rollout, why: str) -> None:
    """Go no further until a person says so."""
    Rollout.objects.filter(pk=rollout.pk, state=RolloutState.OPEN).update(paused=True, reason=why)


def resume(rollout: Rollout, *, now: datetime) -> None:
    """Go on; the deadline begins anew."""
    Rollout.objects.filter(pk=rollout.pk, state=RolloutState.OPEN).update(
        paused=False, reason="", progressed_at=now
    )


def note_verdict(rollout: Rollout, verdict: Verdict) -> None:
    """Keep what a look at the evidence said."""
    Rollout.objects.filter(pk=rollout.pk, state=RolloutState.OPEN).update(
        looks=verdict.look, verdict=verdict_json(verdict)
    )


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as plain JSON."""
    return {
        **asdict(verdict),
        "is_worse": verdict.is_worse,
        "has_passed": verdict.has_passed,
        "says": verdict.says,
    }


@dataclass(frozen=True, kw_only=True)
class Note:
    """What is told of a move."""

    verb: str
    message: str
    inputs: dict[str, Any] | None = None
    """What it was decided from; None for a person's order."""
    severity: str = "info"


def tell(deployment: Deployment, note: Note, *, actor: str, now: datetime) -> None:
    """Write the event of a move, its decision if it has inputs, and wake all who follow."""
    observed.record_event(
        at=now,
        kind=f"rollout.{note.verb}",
        message=note.message,
        actor=actor,
        deployment=deployment.name,
        severity=note.severity,
    )
    if note.inputs is not None:
        Decision.objects.create(
            deployment=deployment,
            created_at=now,
            kind="rollout",
            reason=note.message,
            inputs=note.inputs,
        )
    doorbell.ring(doorbell.CONTROLLER, doorbell.TABLE)
    live.publish(live.FLEET, "deployment", deployment=deployment.name)
    live.publish(live.deployment_group(deployment.name), "deployment", deployment=deployment.name)


def _make_live(deployment: Deployment, revision: Revision) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(live=revision)
    deployment.live = revision
