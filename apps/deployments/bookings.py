"""Book bytes of GPUs and of hosts' memory for replicas. The only writer of bookings.

A booking is checked with the host's row locked, and the sums it changes are written in the same
transaction, under the constraints of `fleet.Capacity`: however many controllers place at once, no
device gives more than it has and no GPU is given twice. SQLite takes no row locks, but its
transactions are IMMEDIATE: one writer at a time. What other processes hold was the plan's business;
here only what is booked counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Count, Q, Sum

from agents.wire import Inventory
from apps.deployments.models import Booking, Replica
from apps.deployments.room import (
    MEMORY,
    SYSTEM_RESERVE_BYTES,
    Reserved,
    missing_gpus,
    reservations,
)
from apps.fleet.models import Capacity, Host
from apps.fleet.queries import inventory_of


class NotBooked(Exception):
    """The room is not there (any more); says what is in the way."""


@dataclass(frozen=True)
class _Wish:
    gpu_uuids: tuple[str, ...]
    memory_bytes: int
    whole: bool

    @property
    def devices(self) -> tuple[str, ...]:
        return self.gpu_uuids or (MEMORY,)


@transaction.atomic
def book(
    replica: Replica,
    *,
    host_id: UUID,
    gpu_uuids: Sequence[str],
    memory_bytes: int,
    whole: bool = True,
) -> None:
    """Book `memory_bytes` of each GPU, or of the host's memory when there are none.

    Raises NotBooked and leaves nothing behind when a GPU has vanished, is another's, or has not
    enough left.
    """
    host = Host.objects.select_for_update().get(pk=host_id)
    inventory = inventory_of(host)
    wish = _Wish(tuple(gpu_uuids), memory_bytes, whole)
    _check(host, inventory, wish)
    for device in wish.devices:
        capacity = _capacity(host, inventory, device)
        Booking.objects.update_or_create(
            replica=replica,
            capacity=capacity,
            defaults={"bytes": memory_bytes, "whole": whole and bool(gpu_uuids), "asleep": False},
        )
        _sum_up(capacity)


@transaction.atomic
def release(replica: Replica) -> None:
    """Give back all that `replica` has booked. Fine if it has booked nothing."""
    capacities = list(Capacity.objects.filter(bookings__replica=replica).select_for_update())
    Booking.objects.filter(replica=replica).delete()
    for capacity in capacities:
        _sum_up(capacity)


@transaction.atomic
def keep_residual(replica: Replica, *, memory_bytes: int) -> None:
    """Keep only `memory_bytes` a device booked, which is what `replica` holds while it sleeps."""
    for capacity in Capacity.objects.filter(bookings__replica=replica).select_for_update():
        Booking.objects.filter(replica=replica, capacity=capacity).update(
            bytes=memory_bytes, asleep=True
        )
        _sum_up(capacity)


@transaction.atomic
def book_awake(replica: Replica) -> None:
    """Book again all that `replica` needs awake, before it is woken. Fine if it already is.

    Raises NotBooked when others have taken the room meanwhile.
    """
    asleep = list(
        Booking.objects.filter(replica=replica, asleep=True).select_related("capacity__host")
    )
    for booking in asleep:
        others = reservations(host=booking.capacity.host_id)[booking.capacity.host_id]
        free = booking.capacity.total_bytes - others.of(booking.capacity.gpu_uuid).bytes
        if free + booking.bytes < replica.memory_bytes:
            raise NotBooked(f"{booking.capacity} has no room to wake it: {_gib(free)} is free")
        booking.bytes, booking.asleep = replica.memory_bytes, False
        booking.save(update_fields=["bytes", "asleep"])
        _sum_up(booking.capacity)


def _check(host: Host, inventory: Inventory, wish: _Wish) -> None:
    """Raise NotBooked unless nobody else has booked what `wish` needs."""
    reserved = reservations(host=host.pk).get(host.pk, Reserved())
    if gone := missing_gpus(inventory, wish.gpu_uuids):
        raise NotBooked(f"GPU {', '.join(gone)} is gone from {host.name}")
    totals = {gpu.uuid: gpu.memory_total_bytes for gpu in inventory.gpus}
    totals[MEMORY] = inventory.memory_total_bytes - SYSTEM_RESERVE_BYTES
    for device in wish.devices:
        booked = reserved.of(device)
        if device and (booked.whole or (wish.whole and booked.shared)):
            raise NotBooked(f"GPU {device} of {host.name} is another replica's")
        if totals[device] - booked.bytes < wish.memory_bytes:
            what = f"GPU {device}" if device else "the memory"
            raise NotBooked(f"{what} of {host.name} has no {_gib(wish.memory_bytes)} left")


def _capacity(host: Host, inventory: Inventory, device: str) -> Capacity:
    totals = {gpu.uuid: gpu.memory_total_bytes for gpu in inventory.gpus}
    total = totals[device] if device else inventory.memory_total_bytes
    capacity, made = Capacity.objects.get_or_create(
        host=host, gpu_uuid=device, defaults={"total_bytes": total}
    )
    if not made and capacity.total_bytes != total:
        capacity.total_bytes = max(total, capacity.booked_bytes)
        capacity.save(update_fields=["total_bytes"])
    return capacity


def _sum_up(capacity: Capacity) -> None:
    """Write the sums over the bookings of `capacity`. Raises NotBooked if they break its limits."""
    awake = Q(asleep=False)
    sums = Booking.objects.filter(capacity=capacity).aggregate(
        booked_bytes=Sum("bytes", default=0),
        whole_bookings=Count("pk", filter=awake & Q(whole=True)),
        shared_bookings=Count("pk", filter=awake & Q(whole=False)),
    )
    if not capacity.gpu_uuid:
        sums["shared_bookings"] = 0
    try:
        with transaction.atomic():
            Capacity.objects.filter(pk=capacity.pk).update(**sums)
    except IntegrityError as error:
        raise NotBooked(f"{capacity} cannot give more than it has") from error


def _gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
