"""Order cache items: load, decide by `caching`, write rows, ring hosts. Called by `loop`'s sweep.

An item nobody wants any more is forgotten, never deleted on the host: what lies there costs disk
alone, and absence is no delete order.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import transaction

from agents.wire import CacheKind, CacheOrder, CacheState, EngineKind, EngineSpec
from apps.deployments.models import Deployment, Replica, Revision
from apps.deployments.reconcile.caching import hosts_to_cache
from apps.deployments.reconcile.fleet import Fleet
from apps.deployments.reconcile.load import constraints_of, wanted_revision
from apps.deployments.reconcile.snapshot import SeenHost
from apps.deployments.reconcile.unreadable import UNREADABLE, reason_of
from apps.deployments.states import DesiredDeployment, ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.fleet.models import CacheItem

logger = logging.getLogger(__name__)

type Key = tuple[UUID, str, str]
"""Host, kind, key."""


@dataclass
class _Wish:
    order: dict[str, Any]
    wanted_by: list[str] = field(default_factory=list)


def run(now: datetime) -> int:
    """Bring the rows of cache items to what the deployments want; return how many changed."""
    wanting = list(
        Deployment.objects.select_related("scaling")
        .filter(desired=DesiredDeployment.RUNNING)
        .exclude(scaling__cached_replicas=0, scaling__asleep_replicas=0)
        .order_by("name")
    )
    if not wanting and not CacheItem.objects.exists():
        return 0
    return _write(_wishes(wanting), now)


def _wishes(rows: Iterable[Deployment]) -> dict[Key, _Wish]:
    hosts = Fleet().hosts()
    wishes: dict[Key, _Wish] = {}
    for row in rows:
        revision = row.revisions.order_by("-number").first()
        count = 0 if revision is None else _count(row, revision)
        if revision is None or not count or revision.engine != EngineKind.VLLM:
            continue
        try:
            items = list(_items(revision))
        except UNREADABLE as error:
            logger.error("nothing is kept ready for %s: %s", row.name, reason_of(error))
            continue
        for host_id in _hosts_for(row, revision, hosts, count):
            for kind, key, order in items:
                wish = wishes.setdefault((host_id, kind, key), _Wish(order))
                wish.wanted_by.append(row.name)
    return wishes


def _count(row: Deployment, revision: Revision) -> int:
    """Return how many hosts to keep: sleepers that cannot be fall to this rung."""
    instead = row.scaling.asleep_replicas if revision.sleep_fault else 0
    return int(row.scaling.cached_replicas) + instead


def _hosts_for(
    row: Deployment, revision: Revision, hosts: tuple[SeenHost, ...], count: int
) -> list[UUID]:
    held = Replica.objects.filter(deployment=row, host__isnull=False)
    holding = set(held.exclude(phase=ReplicaPhase.STOPPED).values_list("host_id", flat=True))
    return hosts_to_cache(
        wanted_revision(revision), constraints_of(row.placement), hosts, holding, count
    )


def _items(revision: Revision) -> Iterable[tuple[str, str, dict[str, Any]]]:
    spec = msgspec.convert(revision.spec, EngineSpec)
    image = CacheOrder(
        item_id="", kind=CacheKind.IMAGE, desired=CacheState.PRESENT, image=spec.image,
        device=spec.device,
    )  # fmt: skip
    name = spec.image or f"default:{spec.device}"
    yield CacheKind.IMAGE.value, name, msgspec.to_builtins(image)
    weights = CacheOrder(
        item_id="", kind=CacheKind.WEIGHTS, desired=CacheState.PRESENT, weights=spec.weights
    )
    yield CacheKind.WEIGHTS.value, spec.weights.key, msgspec.to_builtins(weights)


@transaction.atomic
def _write(wishes: Mapping[Key, _Wish], now: datetime) -> int:
    rows = {(row.host_id, row.kind, row.key): row for row in CacheItem.objects.all()}
    touched: dict[UUID, int] = defaultdict(int)
    for at in rows.keys() - wishes.keys():
        rows[at].delete()
        touched[at[0]] += 1
    for at, wish in wishes.items():
        row = rows.get(at)
        if row is None:
            CacheItem.objects.create(
                host_id=at[0], kind=at[1], key=at[2], order=wish.order,
                wanted_by=wish.wanted_by, wanted_at=now,
            )  # fmt: skip
            touched[at[0]] += 1
        elif (row.order, row.wanted_by) != (wish.order, wish.wanted_by):
            CacheItem.objects.filter(pk=row.pk).update(order=wish.order, wanted_by=wish.wanted_by)
            touched[at[0]] += row.order != wish.order
    for host_id, changes in touched.items():
        if changes:
            fleet_actions.bump_revision(host_id)
    return sum(touched.values())
