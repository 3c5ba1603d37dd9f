"""Carry out what people order: row change + Event + audit + doorbell, in one transaction.

Every function raises `Problem` with a code and a sentence that names the field and the fix; a
refused order leaves nothing behind. The reconciler does the rest.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import F, Max

from agents.wire import EngineSpec
from apps.accounts.actions import audit
from apps.deployments import naming, observed, recipes
from apps.deployments.models import (
    Decision,
    Deployment,
    ReadRequest,
    Replica,
    Revision,
    ScalingPolicy,
)
from apps.deployments.orders import Change, NewDeployment
from apps.deployments.recipes import Recipe
from apps.deployments.scaling_checks import checked_scaling
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.lib import doorbell, live
from apps.lib.problems import Problem

READ_SECONDS = 10.0
"""How long a read from an agent may take."""


def create(order: NewDeployment, *, actor: str, now: datetime) -> Deployment:
    """Create the deployment that `order` asks for; its first replica follows by itself.

    Raises Problem 400 (`invalid`, `unknown_catalog_entry`, `unknown_variant`), 409 `name_taken`,
    422 `does_not_fit`.
    """
    recipe = recipes.cook(order)
    scaling = checked_scaling(order.scaling, ScalingPolicy())
    if order.name is not None:
        naming.check(order.name)
    with transaction.atomic():
        deployment = _insert(order, recipe, actor, now)
        scaling.deployment = deployment
        scaling.save(force_insert=True)
        _add_revision(deployment, recipe, order.engine, actor, now)
        Decision.objects.create(
            deployment=deployment,
            created_at=now,
            kind="variant",
            reason=recipe.reason,
            inputs=recipe.inputs,
        )
        _note(deployment, "created", f"{deployment.name} was ordered: {recipe.reason}", actor, now)
    return deployment


def change(deployment: Deployment, *, patch: Change, actor: str, now: datetime) -> Deployment:
    """Apply `patch`: new scaling at once, new engine settings as a new revision.

    Raises Problem 412 `changed_meanwhile` when `if_generation` is not the newest one.
    """
    latest = deployment.revisions.latest("number")
    recipe = recipes.recook(deployment, latest, patch) if _changes_engine(patch) else None
    with transaction.atomic():
        _bump(deployment, patch.if_generation)
        if patch.scaling is not None:
            checked_scaling(patch.scaling, deployment.scaling).save()
        if recipe is not None and recipe.spec != msgspec.convert(latest.spec, EngineSpec):
            wanted = latest.settings if patch.engine is None else patch.engine
            _add_revision(deployment, recipe, wanted, actor, now)
        _note(deployment, "changed", f"{deployment.name} was changed", actor, now)
    deployment.refresh_from_db()
    return deployment


def start(deployment: Deployment, *, actor: str, now: datetime) -> Deployment:
    """Want the deployment running again; at least one replica. Fine if it already runs."""
    with transaction.atomic():
        _set_desired(deployment, DesiredDeployment.RUNNING)
        ScalingPolicy.objects.filter(pk=deployment.pk, min_replicas=0).update(min_replicas=1)
        ScalingPolicy.objects.filter(pk=deployment.pk, max_replicas=0).update(max_replicas=1)
        Replica.objects.filter(deployment=deployment, phase=ReplicaPhase.FAILED).update(
            failures=0, retry_at=now
        )
        _note(deployment, "started", f"{deployment.name} was started", actor, now)
    return deployment


def stop(deployment: Deployment, *, actor: str, now: datetime) -> Deployment:
    """Drain and stop every replica; the deployment stays and can be started again."""
    with transaction.atomic():
        _set_desired(deployment, DesiredDeployment.STOPPED)
        _note(deployment, "stopped", f"{deployment.name} was stopped", actor, now)
    return deployment


def delete(deployment: Deployment, *, actor: str, now: datetime) -> None:
    """Drain and stop every replica, then remove the deployment. Fine if already ordered."""
    with transaction.atomic():
        _set_desired(deployment, DesiredDeployment.DELETED)
        _note(deployment, "deleted", f"{deployment.name} is being deleted", actor, now)


def rollback(deployment: Deployment, number: int, *, actor: str, now: datetime) -> Deployment:
    """Make a new revision with the settings of revision `number`."""
    old = deployment.revisions.filter(number=number).first()
    if old is None:
        known = ", ".join(str(n) for n in deployment.revisions.values_list("number", flat=True))
        raise Problem(
            404,
            "unknown_revision",
            f"revision: {deployment.name} has no revision {number}; it has {known}.",
            extra={"field": "revision"},
        )
    with transaction.atomic():
        _bump(deployment, None)
        old.pk = None
        old._state.adding = True
        old.number = _next_number(deployment)
        old.created_by, old.created_at = actor, now
        old.save(force_insert=True)
        _note(
            deployment,
            "rolled_back",
            f"{deployment.name} goes back to revision {number} as revision {old.number}",
            actor,
            now,
        )
    return deployment


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
        fleet_actions.bump_revision(replica.host_id)
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
        spec=msgspec.to_builtins(
            msgspec.structs.replace(recipe.spec, served_names=(deployment.name,))
        ),
        need=recipe.need,
        fit=recipe.fit,
        created_by=actor,
        created_at=now,
    )


def _next_number(deployment: Deployment) -> int:
    newest = deployment.revisions.aggregate(newest=Max("number"))["newest"]
    return (newest or 0) + 1


def _changes_engine(patch: Change) -> bool:
    return patch.engine is not None or patch.variant is not None


def _set_desired(deployment: Deployment, desired: DesiredDeployment) -> None:
    if deployment.desired == DesiredDeployment.DELETED and desired != DesiredDeployment.DELETED:
        raise Problem(409, "being_deleted", f"{deployment.name} is being deleted; deploy it anew.")
    _bump(deployment, None)
    Deployment.objects.filter(pk=deployment.pk).update(desired=desired)
    deployment.desired = desired


def _bump(deployment: Deployment, if_generation: int | None) -> None:
    rows = Deployment.objects.filter(pk=deployment.pk)
    if if_generation is not None:
        rows = rows.filter(generation=if_generation)
    if not rows.update(generation=F("generation") + 1):
        raise Problem(
            412,
            "changed_meanwhile",
            f"{deployment.name} has changed since you read it; read it again and repeat.",
        )
    deployment.generation += 1


def _note(deployment: Deployment, verb: str, message: str, actor: str, now: datetime) -> None:
    observed.record_event(
        at=now,
        kind=f"deployment.{verb}",
        message=message,
        actor=actor,
        deployment=deployment.name,
    )
    audit(actor=actor, action=f"deployment.{verb}", target=deployment.name, data={})
    doorbell.ring(doorbell.CONTROLLER, doorbell.TABLE)
    live.publish(live.FLEET, "deployment", deployment=deployment.name)
