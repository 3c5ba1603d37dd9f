"""Write the members of replicas over several hosts. Called by `placing` in its transaction."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from apps.deployments.models import Member, Replica
from apps.deployments.reconcile.placement import Placed
from apps.deployments.states import ReplicaPhase
from apps.fleet.models import Host
from apps.fleet.queries import inventory_of


def seat(groups: Sequence[tuple[Replica, Placed]], now: datetime) -> None:
    """Add the members of `groups` and write each one's port, with the hosts' rows locked."""
    for replica, placed in groups:
        replica.master_port = _port(replica, placed.host_id)
        replica.save(update_fields=["master_port"])  # before the next one looks
        Member.objects.bulk_create(
            Member(
                replica=replica,
                rank=rank,
                host_id=place.host_id,
                gpu_uuids=list(place.gpu_uuids),
                phase_at=now,
            )
            for rank, place in enumerate(placed.places)
        )


def _port(replica: Replica, host_id: UUID) -> int:
    """Return a port of the host that its agent gives to groups and no other group has.

    Another process may hold it: the agent looks before it starts. The next try is another replica,
    which most likely takes another port.
    """
    first, last = inventory_of(Host.objects.get(pk=host_id)).group_ports
    others = Member.objects.filter(host=host_id, rank=0).exclude(phase=ReplicaPhase.STOPPED)
    taken = set(others.values_list("replica__master_port", flat=True))
    free = [port for port in range(first, last + 1) if port not in taken] or [first]
    return free[replica.pk.int % len(free)]
