"""A host's whole desired state as the message that answers its sync. Reads only.

A replica that is wanted stays in the snapshot while it drains; a tombstone (`absent`) stays until
the agent has said that it is gone. What is not in the snapshot is not touched by the agent.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from agents.answers import AnswersBaseline
from agents.wire import (
    CacheOrder,
    DesiredPhase,
    EngineSpec,
    ReadKind,
    ReadOrder,
    ReplicaOrder,
    Seat,
    SyncReply,
)
from apps.deployments import lenders
from apps.deployments.models import Member, ReadRequest, Replica
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.fleet.models import CacheItem, Host
from apps.fleet.queries import inventory_of
from apps.lib import secrets

STOP_GRACE_SECONDS = 20.0
SETTLED = frozenset({ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.STOPPED})
"""Phases in which a replica's answers are not looked at any more."""


def reply_for(host_id: UUID, agent_epoch: int, now: datetime) -> SyncReply:
    """Return everything that is wanted of the host, at its newest revision."""
    host = Host.objects.only("revision", "relay_key").get(pk=host_id)
    rows = (
        Replica.objects.filter(host_id=host_id, master_port=None)
        .exclude(phase=ReplicaPhase.STOPPED)
        .select_related("revision", "deployment__scaling")
        .order_by("created_at", "id")
    )
    parts = (
        Member.objects.filter(host_id=host_id)
        .exclude(phase=ReplicaPhase.STOPPED)
        .select_related("host", "replica__host", "replica__revision", "replica__deployment")
        .order_by("replica__created_at", "replica_id")
    )
    baselines = _baselines([*rows, *(part.replica for part in parts if part.rank == 0)])
    orders = (
        *(_order(row, baselines) for row in rows),
        *(_member_order(part, baselines) for part in parts),
    )
    coming = {str(row.pk) for row in rows if row.phase not in SETTLED}
    coming |= {str(part.replica_id) for part in parts if part.phase not in SETTLED}
    items = _cache_items(host_id)
    return SyncReply(
        incarnation=str(fleet_actions.incarnation()),
        revision=host.revision,
        agent_epoch=agent_epoch,
        replicas=orders,
        cache_items=items,
        lenders=lenders.for_host(host_id, _to_bring(coming, orders, items)),
        requests=_reads(host_id, now),
        relay_key_sha256=(secrets.digest(host.relay_key),) if host.relay_key else (),
        weights_key_sha256=(
            (secrets.digest(lenders.weights_key(host.relay_key)),) if host.relay_key else ()
        ),
    )


def _baselines(rows: Iterable[Replica]) -> list[tuple[UUID, AnswersBaseline]]:
    """Return what replicas that serve showed first, by deployment, the oldest replica first.

    Only deployments with a replica on its way are looked at: what serves is not checked again.
    """
    coming = {row.deployment_id for row in rows if row.phase not in SETTLED}
    if not coming:
        return []
    serving = (
        Replica.objects.filter(
            deployment__in=coming, phase=ReplicaPhase.READY, answers__perplexity__isnull=False
        )
        .select_related("revision")
        .order_by("ready_at", "id")
    )
    return [
        (
            row.deployment_id,
            AnswersBaseline(
                revision=row.revision.number, perplexity=float(row.answers["perplexity"])
            ),
        )
        for row in serving
        if row.answers
    ]


def _baseline(
    replica: Replica, baselines: list[tuple[UUID, AnswersBaseline]]
) -> AnswersBaseline | None:
    """Return what the revision that serves showed, None for one of the same revision."""
    return next(
        (
            baseline
            for deployment, baseline in baselines
            if deployment == replica.deployment_id and baseline.revision != replica.revision.number
        ),
        None,
    )


def _order(replica: Replica, baselines: list[tuple[UUID, AnswersBaseline]]) -> ReplicaOrder:
    spec = msgspec.convert(replica.revision.spec, EngineSpec)
    return ReplicaOrder(
        replica_id=str(replica.pk),
        deployment=replica.deployment.name,
        generation=replica.generation,
        desired=_phase(replica),
        spec=msgspec.structs.replace(
            spec, gpu_uuids=tuple(replica.gpu_uuids), can_sleep=_can_sleep(replica)
        ),
        answers_baseline=_baseline(replica, baselines),
        stop_grace_seconds=STOP_GRACE_SECONDS,
    )


def _member_order(member: Member, baselines: list[tuple[UUID, AnswersBaseline]]) -> ReplicaOrder:
    """Return the order for one part of a replica over several hosts. It never sleeps."""
    replica = member.replica
    assert replica.host is not None  # placed, and as a group
    assert replica.master_port is not None
    spec = msgspec.convert(replica.revision.spec, EngineSpec)
    gone = replica.desired == DesiredReplica.ABSENT
    return ReplicaOrder(
        replica_id=str(replica.pk),
        deployment=replica.deployment.name,
        generation=replica.generation,
        desired=DesiredPhase.ABSENT if gone else DesiredPhase.RUNNING,
        spec=msgspec.structs.replace(spec, gpu_uuids=tuple(member.gpu_uuids)),
        seat=Seat(
            size=int(replica.revision.need["hosts"]),
            rank=member.rank,
            master_address=inventory_of(replica.host).group_address,
            master_port=replica.master_port,
            own_address=inventory_of(member.host).group_address,
        ),
        answers_baseline=_baseline(replica, baselines),
        stop_grace_seconds=STOP_GRACE_SECONDS,
    )


def _phase(replica: Replica) -> DesiredPhase:
    """Return the agent's word: a replica that is to sleep runs until it is drained."""
    if replica.desired == DesiredReplica.ABSENT:
        return DesiredPhase.ABSENT
    if replica.desired == DesiredReplica.ASLEEP and replica.drain_until is None:
        return DesiredPhase.ASLEEP
    return DesiredPhase.RUNNING


def _can_sleep(replica: Replica) -> bool:
    """Return whether to start it so that it can sleep; what runs already is not restarted."""
    scaling = replica.deployment.scaling
    return scaling.asleep_replicas > 0 or scaling.shares_pool


def _cache_items(host_id: UUID) -> tuple[CacheOrder, ...]:
    rows = CacheItem.objects.filter(host_id=host_id).order_by("wanted_at", "id")
    return tuple(msgspec.convert({**row.order, "item_id": str(row.pk)}, CacheOrder) for row in rows)


def _to_bring(
    coming: Collection[str], orders: Iterable[ReplicaOrder], items: Iterable[CacheOrder]
) -> set[str]:
    """Return the keys of weights that the host may still have to bring, for replicas `coming`."""
    keys = {key for o in orders if o.replica_id in coming for key in lenders.keys_of(o.spec)}
    ahead = (item.weights for item in items if item.weights is not None)
    return keys.union(key for ref in ahead for key in lenders.keys_of_weights(ref))


def _reads(host_id: UUID, now: datetime) -> tuple[ReadOrder, ...]:
    rows = ReadRequest.objects.filter(
        host_id=host_id, answer__isnull=True, deadline_at__gt=now
    ).order_by("deadline_at", "id")
    return tuple(
        ReadOrder(
            request_id=str(row.pk),
            kind=ReadKind.LOG_TAIL,
            replica_id=str(row.replica_id),
            lines=row.lines,
            deadline_at=row.deadline_at.timestamp(),
        )
        for row in rows
    )
