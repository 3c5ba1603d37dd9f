"""What an order would become, without ordering it: variant, answer of each host, cost, changes.

Reads only; raises the same Problems as the order itself, except that an order which fits nowhere
is an answer here and no error.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from agents.wire import EngineKind
from apps.catalog.entry import Device
from apps.catalog.fit import Fit, GroupFit, HostFit, HostRoom
from apps.deployments import differences, naming, queries, recipes, rollout_policy
from apps.deployments.foretelling import Foretold, foretell
from apps.deployments.models import Deployment, Revision
from apps.deployments.orders import NewDeployment
from apps.deployments.recipes import Recipe
from apps.deployments.reconcile import groups
from apps.deployments.reconcile.fleet import Fleet
from apps.deployments.reconcile.load import constraints_of, wanted_revision
from apps.deployments.reconcile.placement import NotPlaced, Placed
from apps.deployments.rollouts import policy_of
from apps.deployments.room import fit_rooms
from apps.deployments.states import ReplicaPhase
from apps.fleet.models import Host
from apps.fleet.prices import share_of_host
from apps.fleet.queries import inventory_of, price_book, price_of


@dataclass(frozen=True, kw_only=True)
class HostAnswer:
    """What one host says to the order."""

    fit: HostFit
    cost_per_hour_usd: float | None
    """Of one replica here: its share of the host's price. None where it does not fit."""
    price_is_default: bool


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting that the order would change. `field` as `settings.max_model_len`."""

    field: str
    live: Any
    planned: Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the order would become."""

    fits: bool
    name: str
    catalog: str
    recipe: Recipe
    hosts: tuple[HostAnswer, ...]
    first_replica: Placed | NotPlaced
    """Where it would go now, or why nowhere: candidates with their scores, refusals by host."""
    group: GroupFit | None
    """When no host fits alone: hosts that hold it together."""
    cost_per_hour_usd: float | None
    """Of all wanted replicas at the first host that fits, or on the hosts of the group."""
    differences: tuple[Difference, ...]
    takeover: Foretold | None
    """How it would take over from what serves under that name; None if nothing does."""

    @property
    def simulated(self) -> bool:
        return self.recipe.spec.engine is EngineKind.SIMULATOR


def plan(order: NewDeployment) -> Plan:
    """Return what `order` would become now. Raises Problem 400 for what is wrong in it."""
    if order.name is not None:
        naming.check(order.name)
    hoping = replace(order, placement=replace(order.placement, wait=True))
    recipe = recipes.cook(hoping)
    answer = recipes.fits(order) if _is_by_fit(recipe) else Fit(hosts=_plain_fits(recipe))
    hosts = priced(answer.hosts)
    fitting = [host for host in hosts if host.fit.fits]
    wanted = 1 if order.scaling.min_replicas is None else order.scaling.min_replicas
    first = fitting[0].cost_per_hour_usd if fitting else _price_of(answer.group)
    fits = bool(fitting) or answer.group is not None
    return Plan(
        fits=fits,
        name=order.name or _next_name(order.catalog),
        catalog=order.catalog,
        recipe=recipe,
        hosts=hosts,
        first_replica=_place(recipe),
        group=answer.group,
        cost_per_hour_usd=None if first is None else first * wanted,
        differences=_differences(order.name, recipe),
        takeover=_takeover(order, has_room=fits),
    )


def _is_by_fit(recipe: Recipe) -> bool:
    """Return whether the fit is made for its engine: vLLM's, or a simulator in its place."""
    kind, on_gpus = recipe.spec.engine, recipe.spec.device == Device.CUDA
    return kind is EngineKind.VLLM or (kind is EngineKind.SIMULATOR and on_gpus)


def _place(recipe: Recipe) -> Placed | NotPlaced:
    """Ask placement, as the controller would for the first replica. Seven queries."""
    row = Revision(
        number=1, device=recipe.spec.device, need=dict(recipe.need), fit=dict(recipe.fit)
    )
    constraints = constraints_of(recipe.placement)
    return groups.place(wanted_revision(row), constraints, Fleet().hosts(), {})[0]


def _takeover(order: NewDeployment, *, has_room: bool) -> Foretold | None:
    deployment = Deployment.objects.filter(name=order.name).first() if order.name else None
    if deployment is None:
        return None
    policy = rollout_policy.parse(order.rollout, policy_of(deployment))
    serving = queries.replicas_of(deployment).filter(phase=ReplicaPhase.READY).count()
    return foretell(policy, serving=serving, has_room=has_room)


def _next_name(catalog: str) -> str:
    alike = Deployment.objects.filter(name__startswith=naming.base_name(catalog))
    return naming.free_name(catalog, alike.values_list("name", flat=True))


def _plain_fits(recipe: Recipe) -> tuple[HostFit, ...]:
    """Return the answer of every host to an engine that no fit is made for: its memory alone."""
    needed, device = recipe.need["total_bytes"], Device(recipe.spec.device)
    return tuple(
        HostFit(
            host=room.name,
            variant=recipe.variant,
            device=device,
            fits=recipe.spec.engine is EngineKind.SIMULATOR or _has_room(room, recipe),
            reason=recipe.reason,
            reserve_bytes=needed,
        )
        for room in fit_rooms()
    )


def _has_room(room: HostRoom, recipe: Recipe) -> bool:
    needed = recipe.need["total_bytes"]
    if recipe.spec.device == Device.CPU:
        return needed <= room.memory_available_bytes
    return sum(gpu.free_bytes >= needed for gpu in room.gpus) >= recipe.need["gpus"]


def priced(fits: tuple[HostFit, ...]) -> tuple[HostAnswer, ...]:
    """Return each host's answer with what an hour of a replica costs there. Two queries."""
    rows = {host.name: host for host in Host.objects.filter(name__in=[f.host for f in fits])}
    book = price_book()
    answers = []
    for fit in fits:
        price, is_default = price_of(rows[fit.host], book)
        cost = float(price * _share(fit, rows[fit.host])) if fit.fits else None
        answers.append(HostAnswer(fit=fit, cost_per_hour_usd=cost, price_is_default=is_default))
    return tuple(answers)


def _share(fit: HostFit, host: Host) -> Decimal:
    inventory = inventory_of(host)
    return share_of_host(
        gpus=len(fit.gpu_uuids),
        host_gpus=len(inventory.gpus),
        memory_bytes=fit.reserve_bytes,
        host_memory_bytes=inventory.memory_total_bytes,
    )


def _price_of(group: GroupFit | None) -> float | None:
    """Return what an hour of one replica costs on the hosts of `group`. Two queries, or none."""
    if group is None:
        return None
    book = price_book()
    shares = [
        price_of(host, book)[0]
        * share_of_host(
            gpus=group.gpus_each,
            host_gpus=len(host.inventory.get("gpus", ())),
            memory_bytes=0,
            host_memory_bytes=0,
        )
        for host in Host.objects.filter(name__in=group.hosts)
    ]
    return float(sum(shares))


def _differences(name: str | None, recipe: Recipe) -> tuple[Difference, ...]:
    """Return what differs from what the deployment `name` is to run, if there is one."""
    deployment = Deployment.objects.filter(name=name).first() if name else None
    if deployment is None:
        return ()
    now = queries.target_revision(deployment)
    found = differences.between(
        differences.flat_spec(now.variant, now.spec),
        differences.flat_spec(recipe.variant, recipe.spec),
    )
    return tuple(Difference(field=d.field, live=d.old, planned=d.new) for d in found)
