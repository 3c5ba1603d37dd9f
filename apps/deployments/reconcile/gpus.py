"""Which GPUs of a host a replica could be given, and which it is. Pure; called by `placement`.

Free GPUs come by sort (`snapshot.Shelf`), so a host whose GPUs are all alike and free enough is
judged without looking at one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from apps.deployments.reconcile.snapshot import (
    Constraints,
    GpuSort,
    SeenGpu,
    SeenHost,
    Shelf,
    WantedRevision,
    first_uuid,
    tightness,
)


@dataclass(slots=True)
class Usable:
    """What of a host is free for the next replica."""

    gpus: Sequence[SeenGpu]
    """The tightest first."""
    free_bytes: int
    """Of all GPUs of the right sort, or of the host's memory."""
    linked: Sequence[Sequence[SeenGpu]] | None = None
    """Their NVLink groups where they are known."""


class Chooser:
    """Finds what is usable for one revision; asks once for each sort of GPU."""

    def __init__(self, revision: WantedRevision, constraints: Constraints) -> None:
        self._revision = revision
        self._constraints = constraints
        self._needs: dict[GpuSort, int | None] = {}

    def usable(self, host: SeenHost) -> Usable:
        """Return what a replica could be given of `host`. Looks at single GPUs only if it must."""
        whole: list[Shelf] = []
        found: list[SeenGpu] = []
        free_bytes = 0
        for shelf in host.shelves:
            need = self._need(shelf)
            if need is None:
                continue
            free_bytes += shelf.free_bytes
            if shelf.gpus[0].free_bytes >= need and (self._revision.shared or not shelf.has_shared):
                whole.append(shelf)
            else:
                found += [
                    gpu
                    for gpu in shelf.gpus
                    if gpu.free_bytes >= need and (self._revision.shared or not gpu.shared)
                ]
        if len(whole) == 1 and not found:
            return Usable(whole[0].gpus, free_bytes, whole[0].linked)
        for shelf in whole:
            found += shelf.gpus
        return Usable(sorted(found, key=tightness), free_bytes)

    def _need(self, shelf: Shelf) -> int | None:
        """Return what a replica takes of each of these GPUs, None if they are of the wrong sort.

        Asked once a sort: a fleet has thousands of GPUs of a handful of sorts.
        """
        if shelf.sort not in self._needs:
            gpu = shelf.gpus[0]
            suits = _suits(self._revision, self._constraints, gpu)
            self._needs[shelf.sort] = self._revision.bytes_on(gpu) if suits else None
        return self._needs[shelf.sort]


def _suits(revision: WantedRevision, constraints: Constraints, gpu: SeenGpu) -> bool:
    """Return whether `gpu` is of the right sort, whatever is free of it."""
    return (
        constraints.gpu_kind in ("", gpu.kind)
        and not (gpu.is_slice and revision.gpus > 1)
        and gpu.is_new_enough(revision.min_compute_capability)
    )


def group_of(wanted: int, usable: Usable) -> Sequence[SeenGpu]:
    """Return the best `wanted` of the usable GPUs, empty if there are too few of one kind.

    Linked ones before others, of those the group with the fewest to spare, then the tightest
    GPUs: large groups and large GPUs stay free for large models.
    """
    gpus = usable.gpus
    if wanted == 1 or len(gpus) < wanted:
        return gpus[:wanted] if len(gpus) >= wanted else ()
    linked = _pools(gpus, linked=True) if usable.linked is None else usable.linked
    large = [pool for pool in linked if len(pool) >= wanted]
    if not large:
        large = [pool for pool in _pools(gpus, linked=False) if len(pool) >= wanted]
    return min(large, key=len)[:wanted] if large else ()


def _pools(gpus: Sequence[SeenGpu], *, linked: bool) -> list[list[SeenGpu]]:
    """Return `gpus` by kind, or by kind and NVLink group."""
    pools: dict[tuple[str, int | None], list[SeenGpu]] = {}
    for gpu in gpus:
        if not linked:
            pools.setdefault((gpu.kind, None), []).append(gpu)
        elif gpu.nvlink_group is not None:
            pools.setdefault((gpu.kind, gpu.nvlink_group), []).append(gpu)
    return sorted(pools.values(), key=first_uuid)


def with_share_taken(usable: Usable, gpu: SeenGpu, memory_bytes: int) -> Usable:
    """Return what is left when a fraction of `gpu` is taken."""
    rest = replace(gpu, free_bytes=gpu.free_bytes - memory_bytes, shared=True)
    others = [other for other in usable.gpus if other is not gpu]
    if rest.free_bytes >= memory_bytes:
        others.append(rest)
    return Usable(sorted(others, key=tightness), usable.free_bytes - memory_bytes)


def is_linked(group: Sequence[SeenGpu]) -> bool:
    """Return whether all of `group` are of one NVLink group."""
    return group[0].nvlink_group is not None and len({g.nvlink_group for g in group}) == 1
