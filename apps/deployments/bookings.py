"""Book bytes of GPUs and of hosts' memory for replicas. The only writer of bookings.

A booking is checked with the host's row locked, and the sums it changes are written in the same
transaction, under the constraints of `fleet.Capacity`: however many controllers place at once, no
device gives more than it has and no GPU is given twice. SQLite takes no row locks, but its
transactions are IMMEDIATE: one writer at a time. What other processes hold was the plan's business;
here only what is booked counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
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

_SUMS = ("booked_bytes", "whole_bookings", "shared_bookings")


class NotBooked(Exception):
    """The room is not there (any more); says what is in the way."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one replica is to have on one host. Those of one replica stand together."""

    replica_id: UUID
    host_id: UUID
    gpu_uuids: tuple[str, ...] = ()
    """Empty for a replica in the host's main memory."""
    memory_bytes: int
    """Of each GPU, or of the host's memory."""
    whole: bool = True

    @property
    def devices(self) -> tuple[str, ...]:
        return self.gpu_uuids or (MEMORY,)


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
    wish = Wish(
        replica_id=replica.pk,
        host_id=host_id,
        gpu_uuids=tuple(gpu_uuids),
        memory_bytes=memory_bytes,
        whole=whole,
    )
    if missing := book_all([wish]):
        raise missing[replica.pk]


@transaction.atomic
def book_all(wishes: Sequence[Wish]) -> dict[UUID, NotBooked]:
    """Book what `wishes` say, all of a replica or nothing of it; return by replica why not.

    A replica over several hosts has one wish for each. A fixed number of queries, however many
    wishes. A later wish sees what an earlier one took.
    Raises NotBooked, with nothing booked, when the database finds a device overdrawn all the same.
    """
    ids = sorted({wish.host_id for wish in wishes})
    locked = Host.objects.select_for_update().filter(pk__in=ids).order_by("pk")
    hosts = {host.pk: (host, inventory_of(host)) for host in locked}
    reserved = reservations(hosts=ids)
    missing: dict[UUID, NotBooked] = {}
    granted: list[Wish] = []
    for replica_id, together in groupby(wishes, key=lambda wish: wish.replica_id):
        parts = list(together)
        try:
            for wish in parts:
                _check(hosts.get(wish.host_id), reserved[wish.host_id], wish)
        except NotBooked as refusal:
            missing[replica_id] = refusal
            continue
        for wish in parts:
            reserved[wish.host_id].take(wish.gpu_uuids, wish.memory_bytes, whole=wish.whole)
        granted += parts
    _write(granted, _capacities(hosts, granted))
    return missing


def _write(wishes: Iterable[Wish], capacities: Mapping[tuple[UUID, str], Capacity]) -> None:
    rows = [
        Booking(
            replica_id=wish.replica_id,
            capacity=capacities[wish.host_id, device],
            bytes=wish.memory_bytes,
            whole=wish.whole and bool(device),
            asleep=False,
        )
        for wish in wishes
        for device in wish.devices
    ]
    Booking.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["replica", "capacity"],
        update_fields=["bytes", "whole", "asleep"],
    )
    _sum_up({row.capacity.pk: row.capacity for row in rows}.values())


@transaction.atomic
def release(replica: Replica) -> None:
    """Give back all that `replica` has booked. Fine if it has booked nothing."""
    capacities = _locked(bookings__replica=replica)
    Booking.objects.filter(replica=replica).delete()
    _sum_up(capacities)


@transaction.atomic
def keep_residual(replica: Replica, *, memory_bytes: int) -> None:
    """Keep only `memory_bytes` a device booked, which is what `replica` holds while it sleeps."""
    capacities = _locked(bookings__replica=replica)
    Booking.objects.filter(replica=replica).update(bytes=memory_bytes, asleep=True)
    _sum_up(capacities)


@transaction.atomic
def book_awake(replica: Replica) -> None:
    """Book again all that `replica` needs awake, before it is woken. Fine if it already is.

    Raises NotBooked when others have taken the room meanwhile.
    """
    asleep = list(
        Booking.objects.filter(replica=replica, asleep=True).select_related("capacity__host")
    )
    for booking in asleep:
        others = reservations(hosts=[booking.capacity.host_id])[booking.capacity.host_id]
        free = booking.capacity.total_bytes - others.of(booking.capacity.gpu_uuid).bytes
        if free + booking.bytes < replica.memory_bytes:
            raise NotBooked(f"{booking.capacity} has no room to wake it: {_gib(free)} is free")
        booking.bytes, booking.asleep = replica.memory_bytes, False
        booking.save(update_fields=["bytes", "asleep"])
        _sum_up([booking.capacity])


def _check(found: tuple[Host, Inventory] | None, reserved: Reserved, wish: Wish) -> None:
    """Raise NotBooked unless nobody else has booked what `wish` needs."""
    if found is None:
        raise NotBooked("the host is gone")
    host, inventory = found
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


def _capacities(
    hosts: Mapping[UUID, tuple[Host, Inventory]], wishes: Iterable[Wish]
) -> dict[tuple[UUID, str], Capacity]:
    """Return the rows of all devices of `wishes`, made or brought up to date where need be."""
    totals = {
        (wish.host_id, device): _total_bytes(hosts[wish.host_id][1], device)
        for wish in wishes
        for device in wish.devices
    }
    rows = _locked(host__in={host for host, _ in totals})
    found = {(row.host_id, row.gpu_uuid): row for row in rows}
    new = [
        Capacity(host_id=host, gpu_uuid=device, total_bytes=total)
        for (host, device), total in totals.items()
        if (host, device) not in found
    ]
    found |= {(row.host_id, row.gpu_uuid): row for row in Capacity.objects.bulk_create(new)}
    changed = [found[key] for key, total in totals.items() if found[key].total_bytes != total]
    for row in changed:
        row.total_bytes = max(totals[row.host_id, row.gpu_uuid], row.booked_bytes)
    if changed:
        Capacity.objects.bulk_update(changed, ["total_bytes"])
    return found


def _locked(**which: object) -> list[Capacity]:
    """Return capacities, locked in one order: sums are taken over what is committed, and nobody
    who books waits for one that gives back while that one waits for it."""
    return list(Capacity.objects.filter(**which).order_by("pk").select_for_update(of=("self",)))


def _total_bytes(inventory: Inventory, device: str) -> int:
    if device == MEMORY:
        return inventory.memory_total_bytes
    return next(gpu.memory_total_bytes for gpu in inventory.gpus if gpu.uuid == device)


def _sum_up(capacities: Iterable[Capacity]) -> None:
    """Write the sums over the bookings of `capacities`. Raises NotBooked if they break a limit."""
    rows = {row.pk: row for row in capacities}
    awake = Q(asleep=False)
    for row in rows.values():
        row.booked_bytes = row.whole_bookings = row.shared_bookings = 0
    sums = Booking.objects.filter(capacity__in=list(rows)).values("capacity").order_by()
    for found in sums.annotate(
        booked_bytes=Sum("bytes"),
        whole_bookings=Count("pk", filter=awake & Q(whole=True)),
        shared_bookings=Count("pk", filter=awake & Q(whole=False)),
    ):
        row = rows[found["capacity"]]
        row.booked_bytes = found["booked_bytes"]
        row.whole_bookings = found["whole_bookings"]
        row.shared_bookings = found["shared_bookings"] if row.gpu_uuid else 0
    # Devices of one plan mostly come to the same sums: one statement for all of them.
    alike: dict[tuple[int, ...], list[int]] = {}
    for row in rows.values():
        alike.setdefault(tuple(getattr(row, name) for name in _SUMS), []).append(row.pk)
    try:
        with transaction.atomic():
            for values, keys in alike.items():
                changed = dict(zip(_SUMS, values, strict=True))
                Capacity.objects.filter(pk__in=keys).update(**changed)
    except IntegrityError as error:
        names = ", ".join(str(row) for row in rows.values())
        raise NotBooked(f"{names} cannot give more than there is") from error


def _gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
