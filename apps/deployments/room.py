"""How much room each host has, after what runs there and what is reserved.

Really free counts: what other processes hold is not ours to give. A host's agent tells the memory
that is available now; replicas of ours that are still coming up do not hold theirs yet, so their
reservations are taken off as well. Read by placement and by the fit.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from agents.wire import GpuInfo, Inventory
from apps.catalog.entry import Device
from apps.catalog.rooms import GpuRoom, HostRoom
from apps.deployments.models import Replica
from apps.deployments.states import HOLDING, ReplicaPhase
from apps.fleet.models import Host
from apps.fleet.queries import inventory_of
from apps.fleet.states import HostState

SYSTEM_RESERVE_BYTES = 512 * 1024**2
"""Left to the operating system and the agent on every host."""

_NOT_HOLDING_YET = frozenset({ReplicaPhase.PENDING, ReplicaPhase.FETCHING, ReplicaPhase.STARTING})


@dataclass
class Reserved:
    """What replicas of ours reserve on one host."""

    memory_bytes: int = 0
    not_yet_held_bytes: int = 0
    gpus: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def reservations() -> dict[UUID, Reserved]:
    """Return what is reserved per host. One query."""
    rows = Replica.objects.filter(host__isnull=False, phase__in=HOLDING).values_list(
        "host_id", "phase", "gpu_uuids", "memory_bytes"
    )
    found: dict[UUID, Reserved] = defaultdict(Reserved)
    for host_id, phase, gpu_uuids, count in rows:
        reserved = found[host_id]
        for uuid in gpu_uuids:
            reserved.gpus[uuid] += count
        if not gpu_uuids:
            reserved.memory_bytes += count
            reserved.not_yet_held_bytes += count if phase in _NOT_HOLDING_YET else 0
    return found


def fit_rooms(hosts: Iterable[Host] | None = None) -> list[HostRoom]:
    """Return the room on every host that takes replicas, for the fit. Two queries at most."""
    reserved = reservations()
    rows = Host.objects.order_by("name", "id") if hosts is None else hosts
    return [
        _fit_room(host, reserved.get(host.id, Reserved()))
        for host in rows
        if host.state == HostState.READY and not host.cordoned
    ]


def _fit_room(host: Host, reserved: Reserved) -> HostRoom:
    inventory = inventory_of(host)
    devices = {Device.CPU, Device.CUDA} if inventory.gpus else {Device.CPU}
    return HostRoom(
        name=host.name,
        memory_available_bytes=free_memory_bytes(inventory, reserved),
        devices=frozenset(devices),
        gpus=tuple(
            GpuRoom(
                uuid=gpu.uuid,
                name=gpu.name,
                total_bytes=gpu.memory_total_bytes,
                free_bytes=0 if gpu.uuid in reserved.gpus else free_gpu_bytes(gpu),
                compute_capability=gpu.compute_capability,
            )
            for gpu in inventory.gpus
        ),
        labels=dict(host.labels),
        engine_version=inventory.engine_versions.get("vllm", ""),
    )


def free_gpu_bytes(gpu: GpuInfo) -> int:
    """Return what nobody holds on `gpu`."""
    return max(0, gpu.memory_total_bytes - gpu.memory_used_bytes)


def free_memory_bytes(inventory: Inventory, reserved: Reserved) -> int:
    """Return the main memory that a new replica may take."""
    ours = inventory.memory_total_bytes - reserved.memory_bytes
    really = inventory.memory_available_bytes - reserved.not_yet_held_bytes
    return max(0, min(ours, really) - SYSTEM_RESERVE_BYTES)
