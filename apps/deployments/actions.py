"""Carry out what people order: row change + Event + audit + doorbell, in one transaction.

Every function raises `Problem` with a code and a sentence that names the field and the fix; a
refused order leaves nothing behind. The reconciler does the rest.
"""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import F, Max, Q

from agents.wire import EngineSpec
from apps.accounts.actions import audit
from apps.deployments import (
    conflicts,
    differences,
    members,
    naming,
    observed,
    queries,
    recipes,
    rollout_policy,
    rollouts,
    specs,
)
from apps.deployments.differences import Difference
from apps.deployments.models import (
    Decision,
    Deployment,
    ReadRequest,
    Replica,
    Revision,
    ScalerState,
    ScalingPolicy,
)
from apps.deployments.orders import Change, NewDeployment
from apps.deployments.presenting import SCALING_FIELDS
from apps.deployments.recipes import Recipe
from apps.deployments.rollout_policy import RolloutPolicy
from apps.deployments.scaling_checks import checked_scaling
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.lib import doorbell, live
from apps.lib.problems import Problem

NO_GROUP_SLEEPS = "a replica over several hosts is not put to sleep"
READ_SECONDS = 10.0
"""How long a read from an agent may take."""


def create(order: NewDeployment, *, actor: str, now: datetime) -> Deployment:
    """Create the deployment that `order` asks for; its first replica follows by itself.

    Raises Problem 400 (`invalid`, `unknown_catalog_entry`, `unknown_variant`), 409 `name_taken`,
    422 `does_not_fit`, 403 `admins_only`.
    """
    extra = specs.check_admin_only(order.engine, {}, by_admin=order.by_admin)
    recipe = recipes.cook(order)
    policy = rollouts.checked(order.rollout, RolloutPolicy())
    scaling = checked_scaling(order.scaling, ScalingPolicy())
    if order.name is not None:
        naming.check(order.name)
    with transaction.atomic():
        deployment = _insert(order, recipe, actor, now)
        Deployment.objects.filter(pk=deployment.pk).update(rollout=policy)
        deployment.rollout = policy
        scaling.deployment = deployment
        scaling.save(force_insert=True)
        first = _add_revision(deployment, recipe, order.engine, actor, now)
        rollouts.begin(deployment, first, actor=actor, now=now, is_way_back=False)
        Decision.objects.create(
            deployment=deployment,
            created_at=now,
            kind="variant",
            reason=recipe.reason,
            inputs=recipe.inputs,
        )
        _audit_extra(deployment, extra, actor)
        note(
            deployment,
            "created",
            f"{deployment.name} was ordered: {recipe.reason}",
            actor=actor,
            now=now,
        )
    return deployment


def change(deployment: Deployment, *, patch: Change, actor: str, now: datetime) -> Deployment:
    """Apply `patch`: new engine settings as a new revision that rolls out, all else at once.

    Raises Problem `changed_meanwhile` (412, or as the patch says) with what has changed when
    `if_generation` is not the newest one.
    """
    conflicts.check(deployment, patch.if_generation, patch.conflict_status)
    latest = queries.target_revision(deployment)
    extra = specs.check_admin_only(patch.engine or {}, latest.settings, by_admin=patch.by_admin)
    recipe = recipes.recook(deployment, latest, patch) if _changes_engine(patch) else None
    before = wishes_of(deployment)
    with transaction.atomic():
        bump(deployment, patch.if_generation, patch.conflict_status)
        _set_wishes(deployment, patch, now)
        changes = differences.between(before, wishes_of(deployment))
        if recipe is not None and recipe.spec != msgspec.convert(latest.spec, EngineSpec):
            wanted = latest.settings if patch.engine is None else patch.engine
            made = _add_revision(deployment, recipe, wanted, actor, now)
            rollouts.begin(deployment, made, actor=actor, now=now, is_way_back=False)
            changes += differences.between(
                differences.flat_spec(latest.variant, latest.spec),
                differences.flat_spec(made.variant, made.spec),
            )
        _audit_extra(deployment, extra, actor)
        said = differences.words(changes) or "nothing differs"
        message = f"{deployment.name} was changed: {said}"
        note(deployment, "changed", message, actor=actor, now=now, changes=changes)
    deployment.refresh_from_db()
    return deployment


def wishes_of(deployment: Deployment) -> dict[str, Any]:
    """Return what people want beside the revision, flat: `scaling.min_replicas` and so on."""
    scaling = {name: getattr(deployment.scaling, name) for name in SCALING_FIELDS}
    return differences.flat(
        {
            "scaling": scaling,
            "rollout": rollout_policy.to_json(rollouts.policy_of(deployment)),
            "placement": deployment.placement,
            "resources": deployment.resources,
        }
    )


def _set_wishes(deployment: Deployment, patch: Change, now: datetime) -> None:
    """Write what is no part of a revision. Raises Problem 400 naming the field."""
    wishes: dict[str, Any] = {}
    if patch.scaling is not None:
        checked_scaling(patch.scaling, deployment.scaling).save()
        wishes |= {"used_at": now, "evicted_at": None}
    if patch.rollout is not None:
        wishes["rollout"] = rollouts.checked(patch.rollout, rollouts.policy_of(deployment))
    if patch.placement is not None:
        wishes["placement"] = recipes.placement_json(patch.placement)
    if patch.resources is not None:
        wishes["resources"] = asdict(patch.resources)
    for name, value in wishes.items():
        setattr(deployment, name, value)
    # Only what was given: somebody else may have changed the rest since this row was read.
    if wishes:
        deployment.save(update_fields=list(wishes))


def start(deployment: Deployment, *, actor: str, now: datetime) -> Deployment:
    """Want the deployment running again; at least one replica. Fine if it already runs."""
    with transaction.atomic():
        _set_desired(deployment, DesiredDeployment.RUNNING)
        rollouts.begin_deadline_anew(deployment, now=now)
        ScalingPolicy.objects.filter(pk=deployment.pk, max_replicas=0).update(
            min_replicas=1, max_replicas=1
        )
        # As on the day it was made: one that may be at zero begins with one replica.
        ScalerState.objects.filter(pk=deployment.pk).delete()
        rests = Q(phase=ReplicaPhase.FAILED) | Q(retry_at__isnull=False)
        Replica.objects.filter(rests, deployment=deployment).update(failures=0, retry_at=now)
        note(deployment, "started", f"{deployment.name} was started", actor=actor, now=now)
    return deployment


def stop(deployment: Deployment, *, actor: str, now: datetime) -> Deployment:
    """Drain and stop every replica; the deployment stays and can be started again."""
    with transaction.atomic():
        _set_desired(deployment, DesiredDeployment.STOPPED)
        note(deployment, "stopped", f"{deployment.name} was stopped", actor=actor, now=now)
    return deployment


def delete(deployment: Deployment, *, actor: str, now: datetime) -> None:
    """Drain and stop every replica, then remove the deployment. Fine if already ordered."""
    with transaction.atomic():
        _set_desired(deployment, DesiredDeployment.DELETED)
        note(deployment, "deleted", f"{deployment.name} is being deleted", actor=actor, now=now)


def restart_replica(replica: Replica, *, actor: str, now: datetime) -> None:
    """Drain `replica`; the reconciler puts a new one in its place."""
    with transaction.atomic():
        drain(replica, now=now, seconds=recipes.drain_seconds(), why="restarted", actor=actor)
        audit(actor=actor, action="replica.restart", target=str(replica.pk), data={})


def request_log(replica: Replica, *, lines: int, now: datetime) -> ReadRequest:
    """Ask the replica's host for its last `lines` log lines; answered within READ_SECONDS."""
    if replica.host is None:
        raise Problem(409, "not_placed", "This replica is not on a host yet, so it has no log.")
    with transaction.atomic():
        request = ReadRequest.objects.create(
            host=replica.host,
            replica=replica,
            lines=lines,
            deadline_at=now + timedelta(seconds=READ_SECONDS),
        )
        fleet_actions.bump_revision(replica.host.pk)
    return request


# --- Orders of the reconciler ------------------------------------------------------------------


@transaction.atomic
def drain(replica: Replica, *, now: datetime, seconds: float, why: str, actor: str) -> None:
    """Take `replica` out of the routing table; it is stopped when idle or after `seconds`."""
    Replica.objects.filter(pk=replica.pk).update(
        desired=DesiredReplica.DRAINED, drain_until=now + timedelta(seconds=seconds)
    )
    replica.desired = DesiredReplica.DRAINED
    if replica.phase == ReplicaPhase.READY:
        observed.move_replica(replica, ReplicaPhase.DRAINING, now=now, reason=why, actor=actor)
    doorbell.ring(doorbell.CONTROLLER, doorbell.TABLE)


@transaction.atomic
def order_gone(replica: Replica, *, now: datetime, why: str, actor: str) -> None:
    """Order `replica` stopped on its host; one that was never placed is stopped at once."""
    Replica.objects.filter(pk=replica.pk).update(
        desired=DesiredReplica.ABSENT, generation=F("generation") + 1
    )
    replica.desired = DesiredReplica.ABSENT
    if replica.host_id is None:
        observed.move_replica(replica, ReplicaPhase.STOPPED, now=now, reason=why, actor=actor)
    else:
        fleet_actions.bump_revisions(members.hosts_of(replica))
    live.publish(live.deployment_group(replica.deployment.name), "replica")


# --- Helpers -----------------------------------------------------------------------------------


def _insert(order: NewDeployment, recipe: Recipe, actor: str, now: datetime) -> Deployment:
    alike = Deployment.objects.filter(name__startswith=naming.base_name(order.catalog))
    name = order.name or naming.free_name(order.catalog, alike.values_list("name", flat=True))
    row = Deployment(
        name=name,
        catalog_slug=order.catalog,
        created_by=actor,
        created_at=now,
        changed_at=now,
        placement=recipe.placement,
        resources=recipe.resources,
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        raise Problem(
            409,
            "name_taken",
            f"name: there is a deployment called {name} already; choose another name.",
            extra={"field": "name"},
        ) from error
    return row


def _add_revision(
    deployment: Deployment, recipe: Recipe, settings: dict[str, Any], actor: str, now: datetime
) -> Revision:
    return Revision.objects.create(
        deployment=deployment,
        number=_next_number(deployment),
        variant=recipe.variant,
        engine=recipe.spec.engine,
        device=recipe.spec.device,
        task=recipe.spec.task,
        settings=settings,
        spec=msgspec.to_builtins(specs.named(recipe.spec, deployment.name)),
        need=recipe.need,
        fit=recipe.fit,
        sleep_fault=NO_GROUP_SLEEPS if "hosts" in recipe.need else "",
        created_by=actor,
        created_at=now,
    )


_COPIED = ("variant", "engine", "device", "task", "settings", "spec", "need", "fit", "sleep_fault")


def copy_revision(deployment: Deployment, old: Revision, *, actor: str, now: datetime) -> Revision:
    """Make a new revision with the settings of `old`."""
    return Revision.objects.create(
        deployment=deployment,
        number=_next_number(deployment),
        created_by=actor,
        created_at=now,
        **{name: getattr(old, name) for name in _COPIED},
    )


def _next_number(deployment: Deployment) -> int:
    newest = deployment.revisions.aggregate(newest=Max("number"))["newest"]
    return (newest or 0) + 1


def _changes_engine(patch: Change) -> bool:
    return any(
        wish is not None for wish in (patch.engine, patch.variant, patch.placement, patch.resources)
    )


def _audit_extra(deployment: Deployment, extra: dict[str, Any], actor: str) -> None:
    """Keep in the audit log what an admin gave past the typed settings."""
    if extra:
        audit(actor=actor, action="deployment.extra_args", target=deployment.name, data=extra)


def _set_desired(deployment: Deployment, desired: DesiredDeployment) -> None:
    if deployment.desired == DesiredDeployment.DELETED and desired != DesiredDeployment.DELETED:
        raise Problem(409, "being_deleted", f"{deployment.name} is being deleted; deploy it anew.")
    bump(deployment, None)
    Deployment.objects.filter(pk=deployment.pk).update(desired=desired)
    deployment.desired = desired


def bump(deployment: Deployment, if_generation: int | None, conflict_status: int = 412) -> None:
    """Count one more change. Raises Problem `changed_meanwhile` if somebody else was first."""
    rows = Deployment.objects.filter(pk=deployment.pk)
    if if_generation is not None:
        rows = rows.filter(generation=if_generation)
    if not rows.update(generation=F("generation") + 1):
        raise conflicts.problem(deployment, if_generation or 0, conflict_status)
    deployment.generation += 1


def note(
    deployment: Deployment,
    verb: str,
    message: str,
    *,
    actor: str,
    now: datetime,
    changes: tuple[Difference, ...] = (),
) -> None:
    """Write event and audit entry of an order, and wake all who follow the deployment."""
    told = [asdict(change) for change in changes]
    observed.record_event(
        at=now,
        kind=f"deployment.{verb}",
        message=message,
        actor=actor,
        deployment=deployment.name,
        data={"generation": deployment.generation, "changes": told},
    )
    audit(
        actor=actor,
        action=f"deployment.{verb}",
        target=deployment.name,
        data={"changes": told} if told else {},
    )
    doorbell.ring(doorbell.CONTROLLER, doorbell.TABLE)
    live.publish(live.FLEET, "deployment", deployment=deployment.name)
