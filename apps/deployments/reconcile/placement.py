"""Choose hosts and GPUs for replicas of one revision: filter, score, pick. Pure.

A host is refused with a reason (filter), or gets a score that is a weighted sum of terms from 0 to
1 (`WEIGHTS`); the best is picked, its room is taken off, and the next replica is placed. So one
plan places any number without booking anything twice. A GPU is given whole unless the revision
takes a fraction; a group of GPUs is of one kind and, where it can be, of one NVLink group; MIG
slices serve alone. Ties go to the host whose name comes first.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from apps.deployments.reconcile.gpus import Chooser, Usable, group_of, is_linked, with_share_taken
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
SHOWN_REFUSALS = 50
"""It gives the reasons of so many hosts; with more, their number."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that fitted, and what spoke for it."""

    host: str
    score: float
    terms: dict[str, float]


NO_CANDIDATE = Candidate("", 0.0, {})


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
    others: tuple["Placed", ...] = ()
    """Of a replica over several hosts the places of rank 1 and on; this one is the head's."""

    @property
    def places(self) -> tuple["Placed", ...]:
        """Return all places of the replica, by rank."""
        return (self, *self.others)


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


def shown_refusals(found: Placed | NotPlaced) -> dict[str, Any]:
    """Return why hosts were refused, as decisions and dry runs tell it: the first, and how many."""
    return {
        "refused": dict(islice(found.refused.items(), SHOWN_REFUSALS)),
        "refused_hosts": len(found.refused),
    }


def ranking(
    revision: WantedRevision,
    constraints: Constraints,
    hosts: Sequence[SeenHost],
    replicas_per_host: dict[UUID, int],
) -> tuple[list[Placed], dict[str, str]]:
    """Return one place on every host that fits, the best first, and why the others do not."""
    contest = _Contest(revision, constraints, hosts, replicas_per_host)
    return contest.all()


@dataclass(slots=True)
class _Stand:
    """A host during one plan: what is left of it, and the GPUs that the next replica would get."""

    host: SeenHost
    replicas: int
    usable: Usable
    """What the replica could be given; on a CPU host its free memory."""
    whole_bytes: int
    fixed: dict[str, float]
    """Terms that do not change during the plan."""
    group: Sequence[SeenGpu] = ()
    shown: Candidate = NO_CANDIDATE


type _Ranked = tuple[float, str, _Stand]


class _Contest:
    """All hosts during one plan: those that fit in a heap by score, the others with a reason.

    A pick looks again at the host that it took from, and at no other.
    """

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
        self._chooser = Chooser(revision, constraints)
        prices = [host.replica_price_usd(revision) for host in hosts]
        cheapest = min(prices, default=0.0)
        refused: dict[str, str] = {}
        for host, price in sorted(zip(hosts, prices, strict=True), key=lambda pair: pair[0].name):
            if reason := _refusal(constraints, host):
                refused[host.name] = reason
                continue
            stand = self._stand(host, cheapest / price if price else 1.0)
            stand.replicas = replicas_per_host.get(host.id, 0)
            if reason := _no_room(revision, constraints, stand):
                refused[host.name] = reason
            else:
                self._heap.append(self._ranked(stand))
        self._refused = refused
        heapq.heapify(self._heap)

    def pick(self) -> Placed | NotPlaced:
        """Return the best place and take it, or why there is none."""
        if not self._heap:
            return NotPlaced(why=_nowhere(self._refused), refused=self._refused)
        fitted = len(self._heap)
        shown = tuple(stand.shown for _, _, stand in _first(self._heap, SHOWN_CANDIDATES))
        stand = self._heap[0][2]
        placed = self._placed(stand, shown, fitted)
        self._take(stand, placed)
        return placed

    def all(self) -> tuple[list[Placed], dict[str, str]]:
        """Return a place on each host that fits, the best first, and the refusals; take nothing."""
        fitted = len(self._heap)
        places = [self._placed(stand, (stand.shown,), fitted) for _, _, stand in sorted(self._heap)]
        return places, self._refused

    def _stand(self, host: SeenHost, price_ratio: float) -> _Stand:
        revision, constraints = self._revision, self._constraints
        usable = self._chooser.usable(host) if revision.gpus else Usable((), host.free_memory_bytes)
        fixed = {
            "cached": 0.0 if host.cached.isdisjoint(revision.cache_keys) else 1.0,
            "price": price_ratio,
            "welcome": 1.0,
        }
        if any(t.effect == "avoid" and not constraints.tolerates(t) for t in host.taints):
            fixed["welcome"] = 0.0
        return _Stand(
            host=host,
            replicas=0,
            usable=usable,
            whole_bytes=host.gpu_bytes
            if revision.gpus
            else max(host.memory_bytes, host.free_memory_bytes),
            fixed=fixed,
        )

    def _placed(self, stand: _Stand, shown: tuple[Candidate, ...], fitted: int) -> Placed:
        revision, host = self._revision, stand.host
        group = stand.group if revision.gpus else ()
        return Placed(
            host_id=host.id,
            host_name=host.name,
            gpu_uuids=tuple(gpu.uuid for gpu in group),
            memory_bytes=max(map(revision.bytes_on, group)) if group else revision.memory_bytes,
            whole=not revision.shared,
            why=_reason(revision, host, fitted),
            refused=self._refused,
            candidates=shown,
            fitted=fitted,
        )

    def _take(self, stand: _Stand, placed: Placed) -> None:
        """Take the room of `placed` off the best host and put it where it belongs now."""
        stand.replicas += 1
        left = stand.usable
        if not placed.gpu_uuids:
            stand.usable = Usable((), left.free_bytes - placed.memory_bytes)
        elif placed.whole:
            others = [gpu for gpu in left.gpus if gpu.uuid not in placed.gpu_uuids]
            given = sum(gpu.free_bytes for gpu in stand.group)
            stand.usable = Usable(others, left.free_bytes - given)
        else:
            stand.usable = with_share_taken(left, stand.group[0], placed.memory_bytes)
        if reason := _no_room(self._revision, self._constraints, stand):
            heapq.heappop(self._heap)
            # A new one: decisions made before keep what they saw.
            self._refused = {**self._refused, stand.host.name: reason}
        else:
            heapq.heapreplace(self._heap, self._ranked(stand))

    def _ranked(self, stand: _Stand) -> _Ranked:
        """Score `stand`: an entry of the heap."""
        terms = _terms(self._revision, self._constraints, stand)
        score = sum([WEIGHTS[name] * value for name, value in terms.items()])
        stand.shown = Candidate(stand.host.name, score, terms)
        return (-score, stand.host.name, stand)


def _first(heap: Sequence[_Ranked], count: int) -> list[_Ranked]:
    """Return the `count` smallest of `heap` in order: they lie in its first `count` levels."""
    return sorted(heap[: 2**count - 1])[:count]


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
        missing = revision.memory_bytes - stand.usable.free_bytes
        return f"needs {_gib(missing)} more memory" if missing > 0 else ""
    stand.group = group_of(revision.gpus, stand.usable)
    if stand.group:
        return ""
    if not stand.host.gpus:
        return "has no GPU"
    if constraints.gpu_kind and all(g.kind != constraints.gpu_kind for g in stand.host.gpus):
        return f"has no GPU of kind {constraints.gpu_kind}"
    of_one_kind = " of one kind" if len({gpu.kind for gpu in stand.usable.gpus}) > 1 else ""
    return (
        f"needs {revision.gpus} GPUs{of_one_kind} with {_gib(revision.bytes_per_gpu)} free each, "
        f"has {len(stand.usable.gpus)}"
    )


def _terms(revision: WantedRevision, constraints: Constraints, stand: _Stand) -> dict[str, float]:
    left, whole = stand.usable.free_bytes, stand.whole_bytes
    terms = dict(stand.fixed)
    if constraints.strategy == "binpack":
        terms["binpack"] = 1 - left / whole if whole else 0.0
    else:
        terms["spread"] = 1 / (1 + stand.replicas)
        terms["room"] = left / (left + 64 * _GIB)
    if revision.gpus > 1:
        terms["nvlink"] = 1.0 if is_linked(stand.group) else 0.0
    return terms


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
