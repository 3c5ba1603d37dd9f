"""The hosts as planning sees them: what they have, what is free of it, what lies there. Reads only.

Called by `loop` once a pass and by `prefetch`; `load` puts what it gives into snapshots.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from agents.wire import CacheKind, CacheState, GpuInfo, Inventory
from apps.deployments.models import Replica
from apps.deployments.reconcile.placement import Placed
from apps.deployments.reconcile.snapshot import SeenGpu, SeenHost, Taint
from apps.deployments.room import (
    Reserved,
    free_gpu_bytes,
    free_memory_bytes,
    fresh_samples,
    now_of,
    reservations,
)
from apps.fleet.models import CacheItem, Host
from apps.fleet.prices import kind_of
from apps.fleet.queries import inventory_of, price_book, price_of
from apps.fleet.states import HostState

_NOTHING = Reserved()
"""What is booked on a host without bookings."""


class Fleet:
    """The hosts as they are read once a pass; what is booked on them is read anew when it changes.

    What a pass plans for one deployment is booked before the next one is planned, so many that are
    ordered at once do not all go for the same host.
    """

    def __init__(self) -> None:
        self._rows: dict[UUID, tuple[Host, Inventory, _Surroundings]] | None = None
        self._seen: dict[UUID, SeenHost] = {}
        self._reserved: dict[UUID, Reserved] = {}

    def hosts(self) -> tuple[SeenHost, ...]:
        """Return every host as read or refreshed last. Six queries the first time, then none."""
        if self._rows is None:
            self._rows = {row[0].pk: row for row in self._read()}
            self._look(reservations())
        return tuple(self._seen.values())

    def refresh(self) -> None:
        """Read anew what is booked. One query."""
        self.hosts()
        self._look(reservations())

    def take(self, places: Iterable[Placed]) -> None:
        """Count what `places` are going to have as booked, until the next `refresh`."""
        touched = set()
        for placed in places:
            touched.add(placed.host_id)
            reserved = self._reserved.setdefault(placed.host_id, Reserved())
            reserved.take(placed.gpu_uuids, placed.memory_bytes, whole=placed.whole)
        for key in touched:
            self._see(key)

    def _look(self, reserved: dict[UUID, Reserved]) -> None:
        before, self._reserved = self._reserved, reserved
        for key in self._rows or {}:
            if key not in self._seen or before.get(key) != reserved.get(key):
                self._see(key)

    def _see(self, key: UUID) -> None:
        assert self._rows is not None  # read first
        self._seen[key] = seen_host(*self._rows[key], self._reserved.get(key, _NOTHING))

    def _read(self) -> "Iterator[tuple[Host, Inventory, _Surroundings]]":
        samples, book, cached = fresh_samples(), price_book(), cached_keys()
        for host in Host.objects.order_by("name", "id"):
            around = _Surroundings(
                cached=cached.get(host.pk, frozenset()),
                price_per_hour_usd=float(price_of(host, book)[0]),
            )
            yield host, now_of(inventory_of(host), samples.get(host.name)), around


@dataclass(frozen=True, kw_only=True)
class _Surroundings:
    """What of a host does not stand in its row."""

    cached: frozenset[str]
    price_per_hour_usd: float


def seen_host(
    host: Host, inventory: Inventory, around: _Surroundings, reserved: Reserved
) -> SeenHost:
    """Return `host` as the planner sees it."""
    return SeenHost(
        id=host.id,
        name=host.name,
        state=HostState(host.state),
        cordoned=host.cordoned,
        labels=dict(host.labels),
        taints=tuple(Taint(**taint) for taint in host.taints),
        free_memory_bytes=free_memory_bytes(inventory, reserved),
        memory_bytes=inventory.memory_total_bytes,
        gpus=tuple(_seen_gpu(gpu, reserved) for gpu in inventory.gpus),
        cached=around.cached,
        price_per_hour_usd=around.price_per_hour_usd,
        meets=_meets(inventory),
    )


def _meets(inventory: Inventory) -> str | None:
    """Return a word that hosts which reach each other share: loopback ends at the machine."""
    address = inventory.group_address
    if not address:
        return None
    return inventory.boot_id if address == "::1" or address.startswith("127.") else "network"


def _seen_gpu(gpu: GpuInfo, reserved: Reserved) -> SeenGpu:
    booked = reserved.of(gpu.uuid)
    return SeenGpu(
        uuid=gpu.uuid,
        free_bytes=free_gpu_bytes(gpu, reserved),
        taken=booked.whole,
        shared=booked.shared,
        total_bytes=gpu.memory_total_bytes,
        kind=kind_of(gpu.name),
        compute_capability=gpu.compute_capability,
        nvlink_group=gpu.nvlink_group,
        is_slice=bool(gpu.parent_uuid),
    )


def cached_keys() -> dict[UUID, frozenset[str]]:
    """Return by host the keys of weights that lie there: loaded by an engine, or fetched ahead."""
    rows = Replica.objects.filter(host__isnull=False, ready_at__isnull=False)
    pairs = rows.values_list("host_id", "revision__fit__weights_key").order_by().distinct()
    found: dict[UUID, set[str]] = defaultdict(set)
    for host_id, key in pairs:
        if key:
            found[host_id].add(key)
    ahead = CacheItem.objects.filter(kind=CacheKind.WEIGHTS, state=CacheState.PRESENT)
    for host_id, key in ahead.values_list("host_id", "key"):
        found[host_id].add(key)
    return {host_id: frozenset(keys) for host_id, keys in found.items()}
