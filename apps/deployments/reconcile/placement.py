"""Choose hosts and GPUs for replicas of one revision: filter, score, pick. Pure.

A host is refused with a reason (filter), or gets a score that is a weighted sum of terms from 0 to
1 (`WEIGHTS`); the best is picked, its room is taken off, and the next replica is placed. So one
plan places any number without booking anything twice. A GPU is given whole unless the revision
takes a fraction; a group of GPUs is of one kind and, where it can be, of one NVLink group; MIG
slices serve alone. Ties go to the host whose name comes first.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from apps.deployments.reconcile.snapshot import Constraints, SeenGpu, SeenHost, WantedRevision
from apps.fleet.states import HostState

_GIB = 1024**3

WEIGHTS: dict[str, float] = {
    "spread": 4.0,  # fewer replicas of the same deployment
    "binpack": 4.0,  # fuller hosts; in place of spread where the order says so
    "nvlink": 3.0,  # the group of GPUs is linked
    "cached": 1.5,  # the weights, or the image, are there already
    "price": 1.0,  # cheaper by the hour
    "room": 0.5,  # more memory left
    "welcome": 8.0,  # no taint says to avoid it
}

SHOWN_CANDIDATES = 5
"""A decision names the best few of what may be hundreds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that fitted, and what spoke for it."""

    host: str
    score: float
    terms: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    host_id: UUID
    host_name: str
    gpu_uuids: tuple[str, ...]
    memory_bytes: int
    """Per GPU, or of the host's memory when there are no GPUs."""
    whole: bool = True
    """False when it shares its GPU with others."""
    why: str
    refused: dict[str, str]
    """Host name -> why it was not taken."""
    candidates: tuple[Candidate, ...] = ()
    """The best, the chosen one first; at most SHOWN_CANDIDATES."""
    fitted: int = 1
    """How many hosts fitted."""


@dataclass(frozen=True, kw_only=True)
class NotPlaced:
    why: str
    refused: dict[str, str]


def place(
    revision: WantedRevision,
    constraints: Constraints,
    hosts: Sequence[SeenHost],
    replicas_per_host: dict[UUID, int],
) -> Placed | NotPlaced:
    """Return where the next replica of `revision` goes, or why no host takes it."""
    return place_many(revision, constraints, hosts, replicas_per_host, 1)[0]


def place_many(
    revision: WantedRevision,
    constraints: Constraints,
    hosts: Sequence[SeenHost],
    replicas_per_host: dict[UUID, int],
    wanted: int,
) -> list[Placed | NotPlaced]:
    """Return where each of `wanted` replicas goes; the first that finds no place ends the list."""
    contest = _Contest(revision, constraints, hosts, replicas_per_host)
    found: list[Placed | NotPlaced] = []
    for _ in range(wanted):
        found.append(contest.pick())
        if isinstance(found[-1], NotPlaced):
            break
    return found


@dataclass(slots=True)
class _Stand:
    """A host during one plan: what is left of it, and the GPUs that the next replica would get."""

    host: SeenHost
    replicas: int
    gpus: list[SeenGpu]
    free_memory_bytes: int
    price_ratio: float
    group: list[SeenGpu] = field(default_factory=list)
    terms: dict[str, float] = field(default_factory=dict)
    score: float = 0.0


type _Ranked = tuple[float, str, _Stand]


class _Contest:
    """All hosts during one plan: those that fit in a heap by score, the others with a reason."""

    def __init__(
        self,
        revision: WantedRevision,
        constraints: Constraints,
        hosts: Sequence[SeenHost],
        replicas_per_host: dict[UUID, int],
    ) -> None:
        self._revision = revision
        self._constraints = constraints
        self._refused: dict[str, str] = {}
        self._heap: list[_Ranked] = []
        cheapest = min((h.replica_price_usd(revision) for h in hosts), default=0.0)
        for host in sorted(hosts, key=lambda h: h.name):
            if reason := _refusal(constraints, host):
                self._refused[host.name] = reason
                continue
            price = host.replica_price_usd(revision)
            stand = _Stand(
                host=host,
                replicas=replicas_per_host.get(host.id, 0),
                gpus=[g for g in host.gpus if not g.taken and _suits(revision, constraints, g)],
                free_memory_bytes=host.free_memory_bytes,
                price_ratio=cheapest / price if price else 1.0,
            )
            self._weigh(stand)

    def pick(self) -> Placed | NotPlaced:
        """Return the best place and take it, or why there is none."""
        if not self._heap:
            return NotPlaced(why=_nowhere(self._refused), refused=dict(self._refused))
        fitted = len(self._heap)
        shown = tuple(
            Candidate(name, -negative, stand.terms)
            for negative, name, stand in _first(self._heap, SHOWN_CANDIDATES)
        )
        stand = heapq.heappop(self._heap)[2]
        placed = self._placed(stand, shown, fitted)
        self._take(stand, placed)
        return placed

    def _placed(self, stand: _Stand, shown: tuple[Candidate, ...], fitted: int) -> Placed:
        revision, host = self._revision, stand.host
        uuids = tuple(gpu.uuid for gpu in stand.group)
        return Placed(
            host_id=host.id,
            host_name=host.name,
            gpu_uuids=uuids,
            memory_bytes=max(map(revision.bytes_on, stand.group))
            if uuids
            else revision.memory_bytes,
            whole=not revision.shared,
            why=_reason(revision, host, fitted),
            refused=dict(self._refused),
            candidates=shown,
            fitted=fitted,
        )

    def _take(self, stand: _Stand, placed: Placed) -> None:
        """Take the room of `placed` off its host and weigh the host again."""
        stand.replicas += 1
        if not placed.gpu_uuids:
            stand.free_memory_bytes -= placed.memory_bytes
        elif placed.whole:
            stand.gpus = [gpu for gpu in stand.gpus if gpu.uuid not in placed.gpu_uuids]
        else:
            stand.gpus = [
                replace(gpu, free_bytes=gpu.free_bytes - placed.memory_bytes, shared=True)
                if gpu.uuid in placed.gpu_uuids
                else gpu
                for gpu in stand.gpus
            ]
        self._weigh(stand)

    def _weigh(self, stand: _Stand) -> None:
        """Put `stand` into the heap with its score, or among the refused with the reason."""
        revision = self._revision
        if reason := _no_room(revision, self._constraints, stand):
            self._refused[stand.host.name] = reason
            return
        stand.terms = _terms(revision, self._constraints, stand)
        stand.score = sum(WEIGHTS[name] * value for name, value in stand.terms.items())
        heapq.heappush(self._heap, (-stand.score, stand.host.name, stand))


def _first(heap: Sequence[_Ranked], count: int) -> list[_Ranked]:
    """Return the `count` smallest of `heap` in order, without looking at the rest of it."""
    found: list[_Ranked] = []
    edge = [(heap[0], 0)] if heap else []
    while edge and len(found) < count:
        item, index = heapq.heappop(edge)
        found.append(item)
        for child in (2 * index + 1, 2 * index + 2):
            if child < len(heap):
                heapq.heappush(edge, (heap[child], child))
    return found


def _refusal(constraints: Constraints, host: SeenHost) -> str:
    """Return why `host` is out of question whatever room it has, empty if it is not."""
    if constraints.host and host.name != constraints.host:
        return f"the order names host {constraints.host}"
    for key, value in constraints.labels.items():
        if host.labels.get(key) != value:
            return f"has no label {key}={value}"
    if host.state is not HostState.READY:
        return f"is {host.state}"
    if host.cordoned:
        return "is cordoned"
    for taint in host.taints:
        if taint.effect == "refuse" and not constraints.tolerates(taint):
            return f"has the taint {taint}, which the order does not tolerate"
    return ""


def _no_room(revision: WantedRevision, constraints: Constraints, stand: _Stand) -> str:
    """Choose the GPUs for the next replica; return what is missing, empty if nothing is."""
    if revision.gpus == 0:
        missing = revision.memory_bytes - stand.free_memory_bytes
        return f"needs {_gib(missing)} more memory" if missing > 0 else ""
    if not stand.host.gpus:
        return "has no GPU"
    suited = [
        gpu
        for gpu in stand.gpus
        if gpu.free_bytes >= revision.bytes_on(gpu) and (revision.shared or not gpu.shared)
    ]
    stand.group = _group(revision.gpus, suited)
    if stand.group:
        return ""
    if constraints.gpu_kind and all(g.kind != constraints.gpu_kind for g in stand.host.gpus):
        return f"has no GPU of kind {constraints.gpu_kind}"
    of_one_kind = " of one kind" if len({gpu.kind for gpu in suited}) > 1 else ""
    return (
        f"needs {revision.gpus} GPUs{of_one_kind} with {_gib(revision.bytes_per_gpu)} free each, "
        f"has {len(suited)}"
    )


def _suits(revision: WantedRevision, constraints: Constraints, gpu: SeenGpu) -> bool:
    """Return whether `gpu` is of the right sort, whatever is free of it."""
    return (
        constraints.gpu_kind in ("", gpu.kind)
        and not (gpu.is_slice and revision.gpus > 1)
        and gpu.is_new_enough(revision.min_compute_capability)
    )


def _group(wanted: int, gpus: Sequence[SeenGpu]) -> list[SeenGpu]:
    """Return the best `wanted` of `gpus`, empty if there are too few of one kind.

    Linked ones before others, of those the group with the fewest to spare, then the tightest
    GPUs: large groups and large GPUs stay free for large models.
    """
    if wanted == 1 or len(gpus) < wanted:
        tightest = heapq.nsmallest(wanted, gpus, key=lambda g: (g.free_bytes, g.uuid))
        return tightest if len(tightest) == wanted else []
    linked: dict[tuple[str, int | None], list[SeenGpu]] = {}
    kinds: dict[str, list[SeenGpu]] = {}
    for gpu in gpus:
        kinds.setdefault(gpu.kind, []).append(gpu)
        if gpu.nvlink_group is not None:
            linked.setdefault((gpu.kind, gpu.nvlink_group), []).append(gpu)
    for pools in (linked.values(), kinds.values()):
        large = [pool for pool in pools if len(pool) >= wanted]
        if large:
            pool = min(large, key=lambda p: (len(p), p[0].uuid))
            return sorted(pool, key=lambda g: (g.free_bytes, g.uuid))[:wanted]
    return []


def _terms(revision: WantedRevision, constraints: Constraints, stand: _Stand) -> dict[str, float]:
    host = stand.host
    left, whole = _left(revision, stand)
    terms = {
        "spread": 1 / (1 + stand.replicas),
        "cached": 1.0 if host.cached.intersection(revision.cache_keys) else 0.0,
        "price": stand.price_ratio,
        "room": left / (left + 64 * _GIB),
        "welcome": 1.0,
    }
    if constraints.strategy == "binpack":
        del terms["spread"], terms["room"]
        terms["binpack"] = 1 - left / whole if whole else 0.0
    if revision.gpus > 1:
        terms["nvlink"] = 1.0 if _is_linked(stand.group) else 0.0
    if any(t.effect == "avoid" and not constraints.tolerates(t) for t in host.taints):
        terms["welcome"] = 0.0
    return terms


def _is_linked(group: Sequence[SeenGpu]) -> bool:
    return group[0].nvlink_group is not None and len({g.nvlink_group for g in group}) == 1


def _left(revision: WantedRevision, stand: _Stand) -> tuple[int, int]:
    """Return (bytes free, bytes in all) of what the revision runs on."""
    if revision.gpus == 0:
        return stand.free_memory_bytes, max(stand.host.memory_bytes, stand.free_memory_bytes)
    free = sum(gpu.free_bytes for gpu in stand.gpus)
    return free, sum(max(gpu.total_bytes, gpu.free_bytes) for gpu in stand.host.gpus)


def _nowhere(refused: dict[str, str]) -> str:
    if not refused:
        return "no host is enrolled"
    few = list(refused.items())[:SHOWN_CANDIDATES]
    more = f"; and {len(refused) - len(few)} more" if len(refused) > len(few) else ""
    return "no host has room: " + "; ".join(f"{name} {why}" for name, why in few) + more


def _reason(revision: WantedRevision, host: SeenHost, fitting: int) -> str:
    need = (
        f"{revision.gpus} GPUs with {_gib(revision.bytes_per_gpu)} each"
        if revision.gpus
        else f"{_gib(revision.memory_bytes)} of memory"
    )
    return f"{host.name} has room for {need}; {fitting} host{'s' * (fitting != 1)} fitted"


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
