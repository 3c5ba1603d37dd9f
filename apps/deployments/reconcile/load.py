"""Read the rows of every deployment into snapshots. Reads only; called by `loop` once a pass.

A fixed number of queries however many deployments there are, one while there is none.
"""

from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from apps.deployments.models import Deployment, Replica, Revision
from apps.deployments.orders import DRAIN_SECONDS
from apps.deployments.reconcile.snapshot import (
    Constraints,
    SeenGpu,
    SeenHost,
    SeenReplica,
    Snapshot,
    WantedRevision,
)
from apps.deployments.room import Reserved, free_gpu_bytes, free_memory_bytes, reservations
from apps.deployments.states import DeploymentPhase, DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet.models import Host
from apps.fleet.queries import inventory_of
from apps.fleet.states import HostState
from apps.telemetry import live as telemetry


def load(only: UUID | None = None) -> list[Snapshot]:
    """Return a snapshot of every deployment, or of `only` that one."""
    deployments = Deployment.objects.select_related("scaling").order_by("created_at", "id")
    replicas = (
        Replica.objects.exclude(phase=ReplicaPhase.STOPPED)
        .select_related("revision", "host")
        .defer("revision__spec", "revision__settings", "log_tail")
        .order_by("created_at", "id")
    )
    if only is not None:
        deployments = deployments.filter(pk=only)
        replicas = replicas.filter(deployment_id=only)
    rows = list(deployments)
    if not rows:
        return []
    grouped: dict[UUID, list[Replica]] = defaultdict(list)
    for replica in replicas:
        grouped[replica.deployment_id].append(replica)
    newest = _newest_revisions(rows)
    hosts = _hosts()
    in_flight = _in_flight(grouped)
    return [
        _snapshot(row, newest[row.pk], grouped.get(row.pk, []), hosts, in_flight) for row in rows
    ]


def _newest_revisions(rows: Iterable[Deployment]) -> dict[UUID, Revision]:
    found: dict[UUID, Revision] = {}
    revisions = Revision.objects.filter(deployment__in=[row.pk for row in rows]).order_by("number")
    for revision in revisions.defer("spec", "settings"):
        found[revision.deployment_id] = revision
    return found


def _hosts() -> tuple[SeenHost, ...]:
    reserved = reservations()
    return tuple(
        seen_host(host, reserved.get(host.pk, Reserved()))
        for host in Host.objects.order_by("name", "id")
    )


def seen_host(host: Host, reserved: Reserved) -> SeenHost:
    """Return `host` as the planner sees it."""
    inventory = inventory_of(host)
    return SeenHost(
        id=host.id,
        name=host.name,
        state=HostState(host.state),
        cordoned=host.cordoned,
        labels=dict(host.labels),
        free_memory_bytes=free_memory_bytes(inventory, reserved),
        gpus=tuple(
            SeenGpu(
                uuid=gpu.uuid,
                free_bytes=free_gpu_bytes(gpu),
                taken=gpu.uuid in reserved.gpus,
                compute_capability=gpu.compute_capability,
            )
            for gpu in inventory.gpus
        ),
    )


def _in_flight(grouped: dict[UUID, list[Replica]]) -> dict[UUID, int]:
    """Return what gateways hold per draining replica; empty if no gateway has told lately.

    Nobody is asked while nothing drains. A replica that no gateway counts holds nothing.
    """
    leaving = [r for group in grouped.values() for r in group if r.phase == ReplicaPhase.DRAINING]
    if not leaving:
        return {}
    numbers = telemetry.numbers()
    if numbers.stale or not numbers.gateways:
        return {}
    seen = {key: replica.flow.in_flight for key, replica in numbers.replicas.items()}
    return {r.pk: seen.get(str(r.pk), 0) for r in leaving}


def _snapshot(
    row: Deployment,
    revision: Revision,
    replicas: Iterable[Replica],
    hosts: tuple[SeenHost, ...],
    in_flight: dict[UUID, int],
) -> Snapshot:
    return Snapshot(
        deployment_id=row.pk,
        name=row.name,
        desired=DesiredDeployment(row.desired),
        wanted_replicas=row.scaling.min_replicas,
        revision=_wanted(revision),
        constraints=Constraints(
            host=row.placement.get("host", ""), labels=row.placement.get("labels", {})
        ),
        replicas=tuple(_seen(replica, in_flight) for replica in replicas),
        hosts=hosts,
        drain_seconds=DRAIN_SECONDS,
        generation=row.generation,
        observed_generation=row.observed_generation,
        phase=DeploymentPhase(row.phase),
        reason=row.reason,
    )


def _wanted(revision: Revision) -> WantedRevision:
    gpus = int(revision.need.get("gpus", 0))
    total = int(revision.need.get("total_bytes", 0))
    return WantedRevision(
        id=revision.pk,
        number=revision.number,
        device=revision.device,
        gpus=gpus,
        bytes_per_gpu=total if gpus else 0,
        memory_bytes=0 if gpus else total,
    )


def _seen(replica: Replica, in_flight: dict[UUID, int]) -> SeenReplica:
    return SeenReplica(
        id=replica.pk,
        revision_id=replica.revision_id,
        revision_number=replica.revision.number,
        desired=DesiredReplica(replica.desired),
        phase=ReplicaPhase(replica.phase),
        phase_at=replica.phase_at,
        created_at=replica.created_at,
        ready_at=replica.ready_at,
        host_id=replica.host_id,
        host_state=HostState(replica.host.state) if replica.host else None,
        host_cordoned=replica.host is not None and replica.host.cordoned,
        drain_until=replica.drain_until,
        retry_at=replica.retry_at,
        failures=replica.failures,
        reason=replica.reason,
        in_flight=in_flight.get(replica.pk),
    )
