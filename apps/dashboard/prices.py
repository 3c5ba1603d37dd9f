"""What the replicas of a deployment hold costs for an hour: a share of their hosts' price."""

from collections.abc import Iterable

from apps.deployments.models import Replica
from apps.deployments.states import HOLDING, ReplicaPhase
from apps.fleet.models import Host
from apps.fleet.prices import PriceBook, share_of_host
from apps.fleet.queries import price_of


def usd_per_hour(replicas: Iterable[Replica], book: PriceBook) -> float:
    """Return the price of an hour of all that `replicas` hold now."""
    return sum(_share(r, r.host) * float(price_of(r.host, book)[0]) for r in replicas if r.host)


def _share(replica: Replica, host: Host) -> float:
    """Return the share of its host that `replica` holds."""
    if ReplicaPhase(replica.phase) not in HOLDING:
        return 0.0
    share = share_of_host(
        gpus=len(replica.gpu_uuids),
        host_gpus=len(host.inventory.get("gpus", ())),
        memory_bytes=replica.memory_bytes,
        host_memory_bytes=host.inventory.get("memory_total_bytes", 0),
    )
    return float(share)
