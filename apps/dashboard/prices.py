"""What the replicas of a deployment hold costs for an hour: a share of their hosts' price."""

from collections.abc import Iterable

from apps.deployments import members
from apps.deployments.models import Member, Replica
from apps.deployments.states import HOLDING, ReplicaPhase
from apps.fleet.models import Host
from apps.fleet.prices import PriceBook, share_of_host
from apps.fleet.queries import price_of


def usd_per_hour(replicas: Iterable[Replica], book: PriceBook) -> float:
    """Return the price of an hour of all that `replicas` hold now."""
    rows = list(replicas)
    parts = members.of(rows)
    return sum(
        _share(row, place, place.host) * float(price_of(place.host, book)[0])
        for row in rows
        for place in parts.get(row.pk, [row])
        if place.host
    )


def _share(replica: Replica, place: Replica | Member, host: Host) -> float:
    """Return the share of `host` that `replica` holds at `place`."""
    if ReplicaPhase(replica.phase) not in HOLDING:
        return 0.0
    share = share_of_host(
        gpus=len(place.gpu_uuids),
        host_gpus=len(host.inventory.get("gpus", ())),
        memory_bytes=replica.memory_bytes,
        host_memory_bytes=host.inventory.get("memory_total_bytes", 0),
    )
    return float(share)
