"""Carry out what people order of a rollout: promote, roll back, pause, go on.

Row change + Event + audit + doorbell, in one transaction; a refused order leaves nothing behind.
"""

from datetime import datetime

from django.db import transaction

from apps.deployments import actions, differences, queries, rollouts
from apps.deployments.models import Deployment, Revision, Rollout
from apps.deployments.states import RolloutStage, RolloutState, RolloutStrategy
from apps.lib.problems import Problem


def rollback(
    deployment: Deployment, number: int | None, *, actor: str, now: datetime
) -> Deployment:
    """Go back: to the live revision while a rollout is open, else to an earlier one's settings.

    Without a `number` to the one that was live before. An open rollout is given up at once and
    nothing restarts. Otherwise a new revision with the old settings rolls out.

    Raises Problem 404 `unknown_revision`, 409 `nothing_before`.
    """
    with transaction.atomic():
        rollout = rollouts.open_of(deployment)
        if rollout is not None and number in (None, rollout.live.number):
            _give_up(deployment, rollout, actor=actor, now=now)
        else:
            _go_back_to(deployment, _earlier(deployment, number), actor=actor, now=now)
    return deployment


def _give_up(deployment: Deployment, rollout: Rollout, *, actor: str, now: datetime) -> None:
    actions.bump(deployment, None)
    rollouts.close(deployment, RolloutState.ROLLED_BACK, f"by {actor}", now=now)
    actions.note(
        deployment,
        "rolled_back",
        f"{deployment.name} goes back to revision {rollout.live.number}; "
        f"revision {rollout.candidate.number} is given up",
        actor=actor,
        now=now,
    )


def _go_back_to(deployment: Deployment, old: Revision, *, actor: str, now: datetime) -> None:
    target = queries.target_revision(deployment)
    actions.bump(deployment, None)
    changes = differences.between(
        differences.flat_spec(target.variant, target.spec),
        differences.flat_spec(old.variant, old.spec),
    )
    number = old.number
    made = actions.copy_revision(deployment, old, actor=actor, now=now)
    rollouts.begin(deployment, made, actor=actor, now=now, is_way_back=True)
    actions.note(
        deployment,
        "rolled_back",
        f"{deployment.name} goes back to revision {number} as revision {made.number}",
        actor=actor,
        now=now,
        changes=changes,
    )


def _earlier(deployment: Deployment, number: int | None) -> Revision:
    if number is None:
        return _before_live(deployment)
    found = deployment.revisions.filter(number=number).first()
    if found is None:
        known = ", ".join(str(n) for n in deployment.revisions.values_list("number", flat=True))
        raise Problem(
            404,
            "unknown_revision",
            f"revision: {deployment.name} has no revision {number}; it has {known}.",
            extra={"field": "revision"},
        )
    return found


def _before_live(deployment: Deployment) -> Revision:
    last = (
        Rollout.objects.filter(deployment=deployment, state=RolloutState.PROMOTED)
        .select_related("live")
        .order_by("-closed_at", "-created_at")
        .first()
    )
    if last is None:
        raise Problem(
            409,
            "nothing_before",
            f"revision: no other revision of {deployment.name} was live before; name one.",
            extra={"field": "revision"},
        )
    return last.live


def promote(deployment: Deployment, *, actor: str, now: datetime) -> Deployment:
    """Let the candidate take over without waiting for a verdict.

    Blue/green flips; a canary rolls; what is rolling already goes on. Raises Problem 409
    `no_rollout`, or `not_ready` when nothing of the candidate serves yet.
    """
    with transaction.atomic():
        rollout = rollouts.required(deployment)
        _check_ready(deployment, rollout)
        actions.bump(deployment, None)
        is_blue_green = rollout.policy["strategy"] == RolloutStrategy.BLUE_GREEN
        is_flipped = rollout.stage == RolloutStage.FLIPPED
        stage = RolloutStage.FLIPPED if is_blue_green and not is_flipped else RolloutStage.PROMOTING
        rollouts.advance(rollout, stage, now=now)
        actions.note(
            deployment,
            "promoted",
            f"revision {rollout.candidate.number} of {deployment.name} is promoted by hand",
            actor=actor,
            now=now,
        )
    return deployment


def _check_ready(deployment: Deployment, rollout: Rollout) -> None:
    ready = queries.ready_replicas(deployment, rollout.candidate)
    wanted = 1
    if rollout.policy["strategy"] == RolloutStrategy.BLUE_GREEN:
        wanted = queries.ready_replicas(deployment, rollout.live) or 1
    if ready < wanted:
        raise Problem(
            409,
            "not_ready",
            f"{ready} of {wanted} replicas of revision {rollout.candidate.number} are ready; "
            "wait for them, or roll back.",
        )


def pause(deployment: Deployment, *, actor: str, now: datetime) -> Deployment:
    """Stop the rollout where it is. Fine if it is paused. Raises Problem 409 `no_rollout`."""
    with transaction.atomic():
        rollout = rollouts.required(deployment)
        actions.bump(deployment, None)
        rollouts.pause(rollout, f"by {actor}")
        message = f"The rollout of revision {rollout.candidate.number} is paused"
        actions.note(deployment, "paused", message, actor=actor, now=now)
    return deployment


def resume(deployment: Deployment, *, actor: str, now: datetime) -> Deployment:
    """Go on with a paused rollout. Fine if it goes on. Raises Problem 409 `no_rollout`."""
    with transaction.atomic():
        rollout = rollouts.required(deployment)
        actions.bump(deployment, None)
        rollouts.resume(rollout, now=now)
        message = f"The rollout of revision {rollout.candidate.number} goes on"
        actions.note(deployment, "resumed", message, actor=actor, now=now)
    return deployment
