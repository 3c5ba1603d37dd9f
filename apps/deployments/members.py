"""Members of replicas over several hosts: what their hosts say, and which hosts they are.

A report is written to the row of the member alone; what follows for the whole is the planner's
(`reconcile.groups`). Replicas on one host have no members and cost no query here.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db import transaction

from agents.wire import ReplicaReport
from apps.deployments.models import Member, Replica
from apps.deployments.observed import by_replica
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet.models import Host
from apps.lib import doorbell, live


def hosts_of(replica: Replica) -> list[UUID]:
    """Return the ids of all hosts that `replica` is placed on."""
    if replica.is_group:
        return list(replica.members.order_by("rank").values_list("host_id", flat=True))
    return [] if replica.host_id is None else [replica.host_id]


def of(replicas: Iterable[Replica]) -> dict[UUID, list[Member]]:
    """Return by replica the members of those over several hosts, by rank. One query, or none."""
    groups = [replica.pk for replica in replicas if replica.is_group]
    found: dict[UUID, list[Member]] = {key: [] for key in groups}
    if groups:
        rows = Member.objects.filter(replica__in=groups).select_related("host")
        for row in rows.order_by("replica_id", "rank"):
            found[row.replica_id].append(row)
    return found


def record_reports(host: Host, reports: Iterable[ReplicaReport], now: datetime) -> int:
    """Write what `host` says of its members of groups; return how many rows changed."""
    told = by_replica(reports)
    if not told:
        return 0
    rows = Member.objects.filter(host=host, replica__in=told).select_related("replica__deployment")
    return sum(_record(row, told[row.replica_id], now) for row in rows)


@transaction.atomic
def _record(member: Member, report: ReplicaReport, now: datetime) -> bool:
    """Write one report; False if it changes nothing, or is about an order that is not the last."""
    phase, replica = ReplicaPhase(report.phase.value), member.replica
    is_gone = phase is ReplicaPhase.STOPPED
    if is_gone and replica.desired != DesiredReplica.ABSENT:
        return False  # an older order was fulfilled
    if not is_gone and report.generation < replica.generation:
        return False
    fresh: dict[str, object] = {"phase": phase, "reason": report.reason, "code": report.code}
    if phase is ReplicaPhase.FAILED:
        fresh["log_tail"] = list(report.log_tail[-50:])
    if all(getattr(member, name) == value for name, value in fresh.items()):
        return False
    moved_at = member.phase_at if member.phase == phase else now
    rows = Member.objects.filter(pk=member.pk).exclude(phase=ReplicaPhase.STOPPED)
    if not rows.update(phase_at=moved_at, **fresh):
        return False
    name = replica.deployment.name
    live.publish(live.deployment_group(name), "replica", deployment=name)
    if phase in (ReplicaPhase.FAILED, ReplicaPhase.STOPPED):
        doorbell.ring(doorbell.CONTROLLER)
    return True
