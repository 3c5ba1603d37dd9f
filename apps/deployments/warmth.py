"""Reads and writes of the warm pool: who sleeps where, what it costs to hold, how often it pays."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from agents.wire import Rung
from apps.accounts.actions import audit
from apps.deployments.models import Decision, Deployment, Replica, Start, WarmPool
from apps.deployments.reconcile.rungs import residual_bytes
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet.models import CacheItem, Host
from apps.fleet.prices import PriceBook, kind_of
from apps.fleet.queries import inventory_of, price_book, price_of
from apps.lib import doorbell, live
from apps.lib.problems import Problem

CLAIMS_SHOWN = 20
HIT_WINDOW = timedelta(days=1)
MAX_SLOTS = 1000


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A replica that sleeps, or is on its way to."""

    replica: Replica
    gpu_kind: str
    residual_bytes: int
    cost_per_hour_usd: float
    """Price of the share of the host that it keeps from others."""


def holders() -> list[Holder]:
    """Return every sleeper, by deployment. A fixed number of queries."""
    rows = (
        Replica.objects.filter(desired=DesiredReplica.ASLEEP)
        .exclude(phase=ReplicaPhase.STOPPED)
        .select_related("deployment", "host", "revision")
        .defer("revision__spec", "log_tail")
        .order_by("deployment__name", "created_at", "id")
    )
    book = price_book()
    return [_holder(row, book) for row in rows]


def _holder(row: Replica, book: PriceBook) -> Holder:
    held = residual_bytes(row) if row.phase == ReplicaPhase.ASLEEP else row.memory_bytes
    kind, share = "cpu", 0.0
    if row.host is not None:
        kind, share = _share(row.host, row, held)
    price = float(price_of(row.host, book)[0]) if row.host else 0.0
    return Holder(
        replica=row, gpu_kind=kind, residual_bytes=held, cost_per_hour_usd=round(price * share, 6)
    )


def _share(host: Host, row: Replica, held: int) -> tuple[str, float]:
    """Return the kind of device that a sleeper lies on, and its part of the whole host."""
    inventory = inventory_of(host)
    ours = [gpu for gpu in inventory.gpus if gpu.uuid in row.gpu_uuids]
    if not ours:
        return "cpu", held / max(1, inventory.memory_total_bytes)
    parts = sum(held / max(1, gpu.memory_total_bytes) for gpu in ours)
    return kind_of(ours[0].name), parts / len(inventory.gpus)


def claims(limit: int = CLAIMS_SHOWN) -> list[Decision]:
    """Return the newest decisions to raise a sleeper, newest first."""
    rows = Decision.objects.filter(kind="ladder").select_related("deployment").order_by("-id")
    return list(rows[:limit])


def hit_rate(now: datetime) -> dict[str, Any]:
    """Return how many starts of the last day came from each rung, and the share that was asleep."""
    rows = Start.objects.filter(ended_at__gte=now - HIT_WINDOW, failure="")
    counts = {rung.value: 0 for rung in Rung}
    for rung in rows.values_list("rung", flat=True):
        counts[rung] = counts.get(rung, 0) + 1
    total = sum(counts.values())
    ratio = counts[Rung.ASLEEP] / total if total else None
    return {"starts": total, "by_rung": counts, "asleep_ratio": ratio}


def pools() -> list[WarmPool]:
    """Return the shared pools by kind of GPU."""
    return list(WarmPool.objects.order_by("gpu_kind"))


def members() -> list[Deployment]:
    """Return the deployments that share a pool or keep sleepers of their own."""
    rows = Deployment.objects.select_related("scaling").order_by("name")
    return [row for row in rows if row.scaling.shares_pool or row.scaling.asleep_replicas]


def cached_items() -> list[CacheItem]:
    """Return everything that hosts hold, or are to hold, ahead of time."""
    return list(CacheItem.objects.select_related("host").order_by("host__name", "kind", "key"))


def known_kinds() -> list[str]:
    """Return the kinds of devices that the hosts have, in order."""
    kinds = {kind_of(gpu.name) for host in Host.objects.all() for gpu in inventory_of(host).gpus}
    return sorted(kinds | {"cpu"})


def set_slots(gpu_kind: str, slots: int, *, actor: str, now: datetime) -> WarmPool:
    """Set how many slots the shared pool of `gpu_kind` has; 0 empties it.

    Raises Problem 400 naming the field.
    """
    known = known_kinds()
    if gpu_kind not in known:
        words = ", ".join(known)
        raise Problem(
            400, "invalid", f"gpu_kind: no host has {gpu_kind!r}; there is {words}.",
            extra={"field": "gpu_kind"},
        )  # fmt: skip
    if not 0 <= slots <= MAX_SLOTS:
        raise Problem(
            400, "invalid", f"slots: {slots} is outside 0 to {MAX_SLOTS}.",
            extra={"field": "slots"},
        )  # fmt: skip
    with transaction.atomic():
        pool, _ = WarmPool.objects.update_or_create(
            gpu_kind=gpu_kind, defaults={"slots": slots, "changed_at": now}
        )
        audit(actor=actor, action="pool.slots", target=gpu_kind, data={"slots": slots})
        doorbell.ring(doorbell.CONTROLLER)
        live.publish(live.FLEET, "pool")
    return pool
