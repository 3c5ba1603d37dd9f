"""How much room each host has, after what runs there and what is booked.

Really free counts: what other processes hold is not ours to give. The agents tell every second what
is in use; replicas of ours that are still coming up do not hold their bytes yet, so their bookings
are taken off as well. Read by placement, by the fit, and by `bookings` before it writes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from agents.wire import GpuInfo, HostSample, Inventory
from apps.catalog.entry import Device
from apps.catalog.rooms import GpuRoom, HostRoom
from apps.deployments.models import Booking
from apps.deployments.states import HOLDING, ReplicaPhase
from apps.fleet.models import Host
from apps.fleet.prices import kind_of
from apps.fleet.queries import inventory_of
from apps.fleet.states import HostState
from apps.telemetry import live as telemetry

SYSTEM_RESERVE_BYTES = 512 * 1024**2
"""Left to the operating system and the agent on every host."""

MEMORY = ""
"""Stands for the host's main memory where GPUs stand by their uuid."""

_NOT_HOLDING_YET = frozenset({ReplicaPhase.PENDING, ReplicaPhase.FETCHING, ReplicaPhase.STARTING})


@dataclass(slots=True)
class Booked:
    """What replicas of ours have booked of one device."""

    bytes: int = 0
    not_yet_held_bytes: int = 0
    whole: bool = False
    """An awake replica has the GPU for itself."""
    shared: bool = False
    """Awake replicas take fractions of the GPU."""

    def add(self, count: int, *, whole: bool, coming: bool, asleep: bool = False) -> None:
        """Count one booking of `count` bytes; `coming` does not hold them yet."""
        self.bytes += count
        self.not_yet_held_bytes += count if coming else 0
        self.whole |= whole and not asleep
        self.shared |= not whole and not asleep


@dataclass
class Reserved:
    """What replicas of ours have booked on one host, by GPU uuid and MEMORY."""

    devices: dict[str, Booked] = field(default_factory=lambda: defaultdict(Booked))
    ours_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Held now by replicas whose bookings were left out on purpose; free again for them."""

    def of(self, device: str) -> Booked:
        return self.devices.get(device) or Booked()

    def take(self, gpu_uuids: Sequence[str], memory_bytes: int, *, whole: bool) -> None:
        """Count a replica that is to come, on GPUs or, without any, in the host's memory."""
        for device in gpu_uuids or (MEMORY,):
            self.devices[device].add(memory_bytes, whole=whole and device != MEMORY, coming=True)


def reservations(
    without: UUID | None = None, hosts: Collection[UUID] | None = None
) -> dict[UUID, Reserved]:
    """Return what is booked per host, of all or of `hosts`. One query.

    `without` is a deployment whose own bookings do not count: a change of it may use their room.
    """
    rows = Booking.objects.filter(replica__phase__in=HOLDING)
    if hosts is not None:
        rows = rows.filter(capacity__host__in=hosts)
    found: dict[UUID, Reserved] = defaultdict(Reserved)
    for host_id, uuid, count, whole, asleep, phase, owner in rows.values_list(
        "capacity__host_id", "capacity__gpu_uuid", "bytes", "whole", "asleep",
        "replica__phase", "replica__deployment_id",
    ):  # fmt: skip
        coming = phase in _NOT_HOLDING_YET
        if without is not None and owner == without:
            found[host_id].ours_bytes[uuid] += 0 if coming else count
            continue
        found[host_id].devices[uuid].add(count, whole=whole, coming=coming, asleep=asleep)
    return found


def fit_rooms(
    hosts: Iterable[Host] | None = None, *, without: UUID | None = None
) -> list[HostRoom]:
    """Return the room on every host that takes replicas, for the fit. Two queries at most."""
    reserved = reservations(without)
    samples = fresh_samples()
    rows = Host.objects.order_by("name", "id") if hosts is None else hosts
    return [
        _fit_room(host, reserved.get(host.id, Reserved()), samples.get(host.name))
        for host in rows
        if host.state == HostState.READY and not host.cordoned
    ]


def fresh_samples() -> Mapping[str, HostSample]:
    """Return by host name what each agent sampled in the last seconds; empty without Redis."""
    return telemetry.numbers().hosts


def _fit_room(host: Host, reserved: Reserved, sample: HostSample | None) -> HostRoom:
    inventory = now_of(inventory_of(host), sample)
    devices = {Device.CPU, Device.CUDA} if inventory.gpus else {Device.CPU}
    return HostRoom(
        name=host.name,
        memory_available_bytes=free_memory_bytes(inventory, reserved),
        devices=frozenset(devices),
        gpus=tuple(_gpu_room(gpu, reserved) for gpu in inventory.gpus),
        labels=dict(host.labels),
        engine_version=inventory.engine_versions.get("vllm", ""),
        cpu_features=None if inventory.cpu_features is None else frozenset(inventory.cpu_features),
    )


def _gpu_room(gpu: GpuInfo, reserved: Reserved) -> GpuRoom:
    booked = reserved.of(gpu.uuid)
    return GpuRoom(
        uuid=gpu.uuid,
        name=gpu.name,
        kind=kind_of(gpu.name),
        total_bytes=gpu.memory_total_bytes,
        free_bytes=free_gpu_bytes(gpu, reserved),
        compute_capability=gpu.compute_capability,
        taken=booked.whole,
        shared=booked.shared,
        nvlink_group=gpu.nvlink_group,
        is_slice=bool(gpu.parent_uuid),
    )


def now_of(inventory: Inventory, sample: HostSample | None) -> Inventory:
    """Return `inventory` with the memory that is in use now, where an agent has just told it."""
    if sample is None:
        return inventory
    used = {gpu.uuid: gpu.memory_used_bytes for gpu in sample.gpus}
    return msgspec.structs.replace(
        inventory,
        gpus=tuple(
            msgspec.structs.replace(
                gpu, memory_used_bytes=used.get(gpu.uuid, gpu.memory_used_bytes)
            )
            for gpu in inventory.gpus
        ),
        memory_available_bytes=max(0, inventory.memory_total_bytes - sample.memory_used_bytes),
    )


def free_gpu_bytes(gpu: GpuInfo, reserved: Reserved) -> int:
    """Return what a new replica may take of `gpu`, by bookings and by what is really in use."""
    booked = reserved.of(gpu.uuid)
    used = gpu.memory_used_bytes - reserved.ours_bytes.get(gpu.uuid, 0)
    really = gpu.memory_total_bytes - max(0, used) - booked.not_yet_held_bytes
    return max(0, min(gpu.memory_total_bytes - booked.bytes, really))


def free_memory_bytes(inventory: Inventory, reserved: Reserved) -> int:
    """Return the main memory that a new replica may take."""
    booked = reserved.of(MEMORY)
    available = inventory.memory_available_bytes + reserved.ours_bytes.get(MEMORY, 0)
    ours = inventory.memory_total_bytes - booked.bytes
    really = min(available, inventory.memory_total_bytes) - booked.not_yet_held_bytes
    return max(0, min(ours, really) - SYSTEM_RESERVE_BYTES)


def missing_gpus(inventory: Inventory, gpu_uuids: Collection[str]) -> list[str]:
    """Return those of `gpu_uuids` that the host has no more."""
    known = {gpu.uuid for gpu in inventory.gpus}
    return sorted(uuid for uuid in gpu_uuids if uuid not in known)
