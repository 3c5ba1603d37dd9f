"""A host's whole desired state as the message that answers its sync. Reads only.

A replica that is wanted stays in the snapshot while it drains; a tombstone (`absent`) stays until
the agent has said that it is gone. What is not in the snapshot is not touched by the agent.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from agents.answers import AnswersBaseline
from agents.wire import (
    DesiredPhase,
    EngineSpec,
    ReadKind,
    ReadOrder,
    ReplicaOrder,
    SyncReply,
)
from apps.deployments.models import ReadRequest, Replica
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.fleet.models import Host
from apps.lib import secrets

STOP_GRACE_SECONDS = 20.0
SETTLED = frozenset({ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.STOPPED})
"""Phases in which a replica's answers are not looked at any more."""


def reply_for(host_id: UUID, agent_epoch: int, now: datetime) -> SyncReply:
    """Return everything that is wanted of the host, at its newest revision."""
    host = Host.objects.only("revision", "relay_key").get(pk=host_id)
    rows = (
        Replica.objects.filter(host_id=host_id)
        .exclude(phase=ReplicaPhase.STOPPED)
        .select_related("revision", "deployment")
        .order_by("created_at", "id")
    )
    baselines = _baselines(rows)
    return SyncReply(
        incarnation=str(fleet_actions.incarnation()),
        revision=host.revision,
        agent_epoch=agent_epoch,
        replicas=tuple(_order(row, baselines) for row in rows),
        requests=_reads(host_id, now),
        relay_key_sha256=(secrets.digest(host.relay_key),) if host.relay_key else (),
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
    gone = replica.desired == DesiredReplica.ABSENT
    return ReplicaOrder(
        replica_id=str(replica.pk),
        deployment=replica.deployment.name,
        generation=replica.generation,
        desired=DesiredPhase.ABSENT if gone else DesiredPhase.RUNNING,
        spec=msgspec.structs.replace(spec, gpu_uuids=tuple(replica.gpu_uuids)),
        answers_baseline=_baseline(replica, baselines),
        stop_grace_seconds=STOP_GRACE_SECONDS,
    )


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
