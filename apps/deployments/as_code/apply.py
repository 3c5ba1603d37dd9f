"""Make deployments as files say: plan, show what differs, apply, prune what the set owns.

All of one call happens in one transaction: a mistake in the last document leaves nothing of the
first. A dry run does the same and rolls it back, so it answers exactly what the real one would.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import transaction
from rest_framework.exceptions import ValidationError

from apps.deployments import actions, differences, queries, rollout_policy
from apps.deployments.as_code.export import exported, scaling_defaults
from apps.deployments.as_code.manifest import BadManifest, Document
from apps.deployments.differences import Difference
from apps.deployments.models import Deployment
from apps.deployments.orders import Change, NewDeployment, PlacementWish, Resources, Scaling
from apps.deployments.rollout_policy import BadPolicy
from apps.deployments.serializers import OrderInput
from apps.deployments.states import DesiredDeployment
from apps.lib.drf import flatten
from apps.lib.problems import Problem


class Action(StrEnum):
    """What applying a document does."""

    CREATE = "create"
    CHANGE = "change"
    UNCHANGED = "unchanged"
    DELETE = "delete"  # the set owns it, and no document names it


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One call of `apply`."""

    documents: Sequence[Document]
    owner: str
    """Name of the set: deployments it made are marked with it, and only those are pruned."""
    prune: bool = False
    dry_run: bool = False
    take_over: bool = False
    """Also deployments of another set."""
    by_admin: bool = False
    """May give what is for admins alone."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What happened, or would happen, to one deployment."""

    name: str
    action: Action
    source: str = ""
    line: int = 0
    differences: tuple[Difference, ...] = ()

    def says(self) -> list[str]:
        """Return the lines that a person reads."""
        mark = {"create": "+", "change": "~", "unchanged": "=", "delete": "-"}[self.action]
        lines = [f"{mark} {self.name}: {self.action}"]
        for one in self.differences:
            lines.append(f"    {one.field}: {_plain(one.old)} -> {_plain(one.new)}")
        return lines


def _plain(value: object) -> str:
    return "(default)" if value in (None, "", [], {}) else str(value)


def apply(wish: Wish, *, actor: str, now: datetime) -> list[Applied]:
    """Carry out `wish` wholly or not at all; return what it did, or with `dry_run` would do.

    Raises Problem 400, 409 or 422 with the line of the document and the member it is about.
    """
    _check_names(wish.documents)
    with transaction.atomic():
        done = [_apply_one(one, wish, actor=actor, now=now) for one in wish.documents]
        if wish.prune:
            done += _prune(wish, actor=actor, now=now)
        if wish.dry_run:
            transaction.set_rollback(True)
    return done


def problem_of(error: BadManifest) -> Problem:
    """Return a mistake in the text as a Problem with its line."""
    return _at(error.source, error.line, error.path, str(error), Problem(400, "invalid", ""))


def _check_names(documents: Sequence[Document]) -> None:
    seen: dict[str, Document] = {}
    for one in documents:
        if one.name in seen:
            first = seen[one.name]
            where = f"{first.source} line {first.line}".strip()
            raise problem_of(
                BadManifest(one.source, one.line_of("name"), "name", f"stands also in {where}")
            )
        seen[one.name] = one


def _apply_one(document: Document, wish: Wish, *, actor: str, now: datetime) -> Applied:
    try:
        existing = queries.deployments().filter(name=document.name).first()
        order = _order(document, by_admin=wish.by_admin)
        if existing is None:
            made = actions.create(order, actor=actor, now=now)
            _own(made, wish.owner)
            return _applied(document, Action.CREATE, {}, queries.get(document.name))
        _check_owner(existing, wish)
        return _change(document, existing, order, wish, actor=actor, now=now)
    except Problem as problem:
        field = str(problem.extra.get("field", ""))
        raise _at(
            document.source, document.line_of(field), field, problem.detail, problem
        ) from problem


def _order(document: Document, *, by_admin: bool) -> NewDeployment:
    """Return the document as an order. Raises Problem 400 naming the member."""
    given = OrderInput(data=document.value)
    try:
        given.is_valid(raise_exception=True)
    except ValidationError as error:
        first = flatten(error.detail)[0]
        raise Problem(400, "invalid", first["message"], extra={"field": first["field"]}) from error
    return given.order(by_admin=by_admin)


def _change(
    document: Document,
    existing: Deployment,
    order: NewDeployment,
    wish: Wish,
    *,
    actor: str,
    now: datetime,
) -> Applied:
    if existing.catalog_slug != order.catalog:
        raise Problem(
            409,
            "catalog_differs",
            f"{existing.name} serves {existing.catalog_slug}; a deployment keeps its catalog "
            "entry. Delete it first, or choose another name.",
            extra={"field": "catalog"},
        )
    before = exported(existing) | {"owner": existing.owner}
    wanted = _whole(existing, order)
    if _is_other(existing, order, wanted):
        actions.change(existing, patch=wanted, actor=actor, now=now)
    if existing.desired != DesiredDeployment.RUNNING:
        actions.start(existing, actor=actor, now=now)
    _own(existing, wish.owner)
    return _applied(document, Action.CHANGE, before, queries.get(existing.name))


def _whole(existing: Deployment, order: NewDeployment) -> Change:
    """Return the change that makes all of the deployment as the document says."""
    target = queries.target_of(existing)
    scaling = {**scaling_defaults(), **_given(order.scaling)}
    for name in ("gpu_budget", "ttft_target_seconds"):
        scaling[name] = scaling[name] or 0  # 0 takes the limit away
    if "max_replicas" not in _given(order.scaling):
        scaling["max_replicas"] = max(scaling["max_replicas"], scaling["min_replicas"])
    try:
        policy = rollout_policy.to_json(rollout_policy.parse(order.rollout))
    except BadPolicy as error:
        field = f"rollout.{error.field}"
        raise Problem(400, "invalid", f"{field}: {error}.", extra={"field": field}) from error
    return Change(
        variant=order.variant or target.variant,
        engine=order.engine,
        scaling=Scaling(**scaling),
        rollout=policy,
        placement=order.placement,
        resources=order.resources,
        by_admin=order.by_admin,
    )


def _given(scaling: Scaling) -> dict[str, Any]:
    return {name: value for name, value in asdict(scaling).items() if value is not None}


def _is_other(existing: Deployment, order: NewDeployment, wanted: Change) -> bool:
    """Return whether anything differs: an apply of what is there writes nothing."""
    target = queries.target_of(existing)
    wishes = actions.wishes_of(existing)
    scaling = asdict(wanted.scaling or Scaling())
    is_scaled = any(
        (wishes.get(f"scaling.{name}") or 0) != (value or 0)
        if name in ("gpu_budget", "ttft_target_seconds")
        else wishes.get(f"scaling.{name}") != value
        for name, value in scaling.items()
    )
    placement, resources = order.placement, order.resources
    return (
        is_scaled
        or target.variant != wanted.variant
        or target.settings != order.engine
        or rollout_policy.to_json(rollout_policy.stored(existing.rollout)) != wanted.rollout
        or PlacementWish(**_known(existing.placement)) != _plain_wish(placement)
        or Resources(**existing.resources) != resources
    )


def _known(placement: dict[str, Any]) -> dict[str, Any]:
    return {**placement, "tolerations": tuple(placement.get("tolerations") or ())}


def _plain_wish(wish: PlacementWish) -> PlacementWish:
    """Return the wish as a row keeps it: whether to wait for room is of the order alone."""
    return PlacementWish(
        **{**asdict(wish), "tolerations": tuple(dict(t) for t in wish.tolerations), "wait": False}
    )


def _check_owner(existing: Deployment, wish: Wish) -> None:
    if existing.owner not in ("", wish.owner) and not wish.take_over:
        raise Problem(
            409,
            "owned_by_other",
            f"{existing.name} belongs to the set `{existing.owner}`; change it there, or take it "
            "over.",
            extra={"field": "name"},
        )


def _own(deployment: Deployment, owner: str) -> None:
    Deployment.objects.filter(pk=deployment.pk).exclude(owner=owner).update(owner=owner)


def _applied(
    document: Document, action: Action, before: dict[str, Any], made: Deployment
) -> Applied:
    after = exported(made) | {"owner": made.owner}
    found = differences.between(differences.flat(before), differences.flat(after))
    if action is Action.CHANGE and not found:
        action = Action.UNCHANGED
    return Applied(
        name=document.name,
        action=action,
        source=document.source,
        line=document.line,
        differences=found,
    )


def _prune(wish: Wish, *, actor: str, now: datetime) -> list[Applied]:
    """Delete what the set owns and no document names; nothing that is not marked as its own."""
    named = [one.name for one in wish.documents]
    rows = Deployment.objects.filter(owner=wish.owner).exclude(name__in=named)
    gone = list(rows.exclude(desired=DesiredDeployment.DELETED).order_by("name"))
    for row in gone:
        actions.delete(row, actor=actor, now=now)
    return [Applied(name=row.name, action=Action.DELETE) for row in gone]


def _at(source: str, line: int, field: str, message: str, problem: Problem) -> Problem:
    """Return `problem` with the place in the text that it is about."""
    where = f"{source}:{line}" if source else f"line {line}"
    told = message if not field or message.startswith(field) else f"{field}: {message}"
    place = {"source": source, "line": line, "field": field, "message": told}
    return Problem(
        problem.status,
        problem.code,
        f"{where}: {told}",
        extra={**problem.extra, "field": field, "line": line, "source": source, "errors": [place]},
    )
