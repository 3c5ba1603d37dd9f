"""What one planning pass sees: frozen values, no rows. Built by `load`, read by `plan`.

A snapshot is complete for one deployment: its wishes, its replicas, and the room on every host
after all other deployments' reservations. Planning a snapshot twice gives the same steps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from uuid import UUID

from agents.wire import Rung
from apps.deployments.reconcile.sleepers import Held
from apps.deployments.rollout_policy import RolloutPolicy
from apps.deployments.states import (
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
    RolloutStage,
)
from apps.deployments.verdict import Tally
from apps.fleet.states import HostState

TYPICAL_SECONDS = {Rung.ASLEEP: 5.0, Rung.CACHED: 60.0, Rung.COLD: 240.0}
"""Seconds from each rung to serving, until a model has measured its own."""
UNMEASURED_WAKE_RATIO = 0.2
"""Of a start from the cache; measured elsewhere: a tenth and less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenGpu:
    uuid: str
    free_bytes: int
    """Really free: total, less what any process holds or our other replicas have booked."""
    taken: bool
    """A replica of ours has it for itself."""
    shared: bool = False
    """Replicas of ours take fractions of it."""
    total_bytes: int = 0
    kind: str = ""
    """As `h100`; see `apps.fleet.prices.kind_of`."""
    compute_capability: str = ""
    nvlink_group: int | None = None
    is_slice: bool = False
    """A MIG slice."""

    @property
    def sort(self) -> "GpuSort":
        return self.kind, self.total_bytes, self.compute_capability, self.is_slice

    def is_new_enough(self, oldest: str) -> bool:
        """Compare compute capabilities; a GPU that does not tell its own is let through."""
        if not oldest or not self.compute_capability:
            return True
        return _numbers(self.compute_capability) >= _numbers(oldest)


type GpuSort = tuple[str, int, str, bool]
"""Kind, memory, compute capability, whether it is a slice: all that a plan asks of a GPU's make."""


def tightness(gpu: SeenGpu) -> tuple[int, str]:
    """Return what GPUs are sorted by where the tightest that fits is to be taken."""
    return gpu.free_bytes, gpu.uuid


def first_uuid(gpus: Iterable[SeenGpu]) -> str:
    """Return what groups of GPUs are sorted by, so that a tie always goes the same way."""
    return min(gpu.uuid for gpu in gpus)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Free GPUs of one sort on one host."""

    sort: GpuSort
    gpus: tuple[SeenGpu, ...]
    """The tightest first."""
    free_bytes: int
    """Of all of them."""
    has_shared: bool
    linked: tuple[tuple[SeenGpu, ...], ...]
    """Its NVLink groups, by their first uuid."""

    @classmethod
    def of(cls, sort: GpuSort, gpus: Iterable[SeenGpu]) -> "Shelf":
        """Return the shelf of `gpus`, which are all of that sort."""
        ranked = tuple(sorted(gpus, key=tightness))
        groups: dict[int, list[SeenGpu]] = {}
        for gpu in ranked:
            if gpu.nvlink_group is not None:
                groups.setdefault(gpu.nvlink_group, []).append(gpu)
        return cls(
            sort=sort,
            gpus=ranked,
            free_bytes=sum(gpu.free_bytes for gpu in ranked),
            has_shared=any(gpu.shared for gpu in ranked),
            linked=tuple(tuple(group) for group in sorted(groups.values(), key=first_uuid)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Taint:
    """A mark on a host that keeps orders away unless they tolerate it."""

    key: str
    value: str = ""
    effect: str = "refuse"
    """`refuse`, or `avoid`: the last choice."""

    def __str__(self) -> str:
        return f"{self.key}={self.value}" if self.value else self.key


@dataclass(frozen=True, kw_only=True)
class SeenHost:
    id: UUID
    name: str
    state: HostState
    cordoned: bool
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    free_memory_bytes: int
    memory_bytes: int = 0
    gpus: tuple[SeenGpu, ...] = ()
    cached: frozenset[str] = frozenset()
    """Keys of weights and images that lie on the host."""
    price_per_hour_usd: float = 0.0
    meets: str | None = ""
    """Hosts with the same word reach each other; None for one whose agent tells no address."""

    @cached_property
    def shelves(self) -> tuple[Shelf, ...]:
        """The GPUs that no replica has for itself, by sort. Made once for all plans."""
        sorts: dict[GpuSort, list[SeenGpu]] = {}
        for gpu in self.gpus:
            if not gpu.taken:
                sorts.setdefault(gpu.sort, []).append(gpu)
        return tuple(Shelf.of(sort, gpus) for sort, gpus in sorts.items())

    @cached_property
    def _uuids(self) -> frozenset[str]:
        return frozenset(gpu.uuid for gpu in self.gpus)

    def missing(self, gpu_uuids: Iterable[str]) -> tuple[str, ...]:
        """Return those of `gpu_uuids` that it has no more."""
        return tuple(uuid for uuid in gpu_uuids if uuid not in self._uuids)

    @cached_property
    def gpu_bytes(self) -> int:
        """Memory of all GPUs."""
        return sum(max(gpu.total_bytes, gpu.free_bytes) for gpu in self.gpus)

    def replica_price_usd(self, revision: "WantedRevision") -> float:
        """Return what an hour of one replica costs here: its share of the host."""
        if self.gpus:
            return self.price_per_hour_usd * revision.gpus / len(self.gpus)
        if not self.memory_bytes:
            return self.price_per_hour_usd
        return self.price_per_hour_usd * revision.memory_bytes / self.memory_bytes


@dataclass(frozen=True, kw_only=True)
class WantedRevision:
    """A revision that replicas are to run."""

    id: UUID
    number: int
    device: str
    gpus: int
    """GPUs a replica takes on a host; 0 on a CPU host."""
    bytes_per_gpu: int
    memory_bytes: int
    """Host memory a replica takes on a CPU host."""
    gpu_memory_ratio: float = 0.0
    """Share of each GPU that the engine takes whatever its size; 0 when it takes just bytes."""
    shared: bool = False
    """It takes a fraction of a GPU and leaves the rest to others."""
    min_compute_capability: str = ""
    cache_keys: frozenset[str] = frozenset()
    """Weights and image; a host that has one of them starts it sooner."""
    hosts: int = 1
    """Hosts a replica takes, of each as many GPUs."""

    def bytes_on(self, gpu: SeenGpu) -> int:
        """Return what a replica takes of `gpu`."""
        return max(self.bytes_per_gpu, int(self.gpu_memory_ratio * gpu.total_bytes))


@dataclass(frozen=True, kw_only=True)
class Toleration:
    key: str
    value: str | None = None
    """None tolerates any value."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Where replicas may go; empty means anywhere."""

    host: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    gpu_kind: str = ""
    tolerations: tuple[Toleration, ...] = ()
    strategy: str = "spread"
    """`spread` over hosts, or `binpack` to keep hosts free."""

    def tolerates(self, taint: Taint) -> bool:
        return any(t.key == taint.key and t.value in (None, taint.value) for t in self.tolerations)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenMember:
    """One host's part of a replica over several."""

    rank: int
    host_id: UUID
    host: str
    host_state: HostState
    phase: ReplicaPhase
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SeenReplica:
    id: UUID
    revision_id: UUID
    revision_number: int
    desired: DesiredReplica
    phase: ReplicaPhase
    phase_at: datetime
    created_at: datetime
    ready_at: datetime | None = None
    host_id: UUID | None = None
    host_state: HostState | None = None
    host_cordoned: bool = False
    """Its host is being emptied: a successor takes its place elsewhere."""
    drain_until: datetime | None = None
    retry_at: datetime | None = None
    failures: int = 0
    reason: str = ""
    in_flight: int | None = None
    """Requests that gateways hold on it now; None while no gateway has told."""
    missing_gpus: tuple[str, ...] = ()
    """GPUs it was placed on that its host has no more."""
    code: str = ""
    """Stable word for the reason."""
    can_wake: bool = False
    """Asleep, and nobody has taken the room that it needs awake."""
    is_group: bool = False
    """It was placed over several hosts."""
    members: tuple[SeenMember, ...] = ()
    """Of a group, by rank."""
    released: bool = False
    """It has given its room back, and waits for the word of a host that is lost."""

    @property
    def age_key(self) -> float:
        """Return when it was created, Unix seconds."""
        return self.created_at.timestamp()


@dataclass(frozen=True, kw_only=True)
class SeenRollout:
    """The change of revision that is under way: from `live` to the snapshot's `revision`."""

    id: UUID
    live: WantedRevision
    policy: RolloutPolicy
    stage: RolloutStage
    stage_at: datetime
    progressed_at: datetime
    """When a candidate last became ready, or the stage began."""
    most_ready: int = 0
    paused: bool = False
    live_served: bool = True
    """The live revision has been ready once: going back to it is worth it."""
    looks: int = 0
    """Looks at the evidence that are done."""
    live_evidence: Tally = field(default_factory=Tally)
    candidate_evidence: Tally = field(default_factory=Tally)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    deployment_id: UUID
    name: str
    desired: DesiredDeployment
    wanted_replicas: int
    wakes_on_request: bool = False
    """At zero the first request brings a replica back; else somebody scaled it to zero."""
    revision: WantedRevision
    """What every replica is to become: the live revision, or the candidate of a rollout."""
    constraints: Constraints
    replicas: tuple[SeenReplica, ...]
    """Every replica that is not stopped."""
    hosts: tuple[SeenHost, ...]
    drain_seconds: float = 30.0

    asleep_wanted: int = 0
    """Sleepers to keep now: what the policy asks for, while it is in use or was lately."""
    keeps_sleepers: bool = False
    """The policy asks for sleepers, now or later."""
    sleep_fault: str = ""
    """Why the revision's engine cannot sleep, as measured."""
    used_at: datetime | None = None
    rung_seconds: Mapping[str, float] = field(default_factory=dict)
    """Rung -> seconds until it serves, by measured starts."""
    sleepers: tuple[Held, ...] = ()
    """Sleepers of other deployments, should room be short."""

    generation: int = 1
    observed_generation: int = 0
    phase: DeploymentPhase = DeploymentPhase.STARTING
    """As last written; with `reason` it tells whether the row must be written again."""
    reason: str = ""
    rollout: SeenRollout | None = None

    def revision_of(self, replica: SeenReplica) -> WantedRevision:
        """Return what `replica` is to run: its own revision if that is live or the candidate."""
        if self.rollout is not None and replica.revision_id == self.rollout.live.id:
            return self.rollout.live
        return self.revision

    def start_seconds(self, rung: Rung) -> float:
        """Return how long a replica takes from `rung` until it serves; typical if unmeasured.

        A wake-up that was never measured counts as a fraction of a start from the cache: a small
        model's would else be thought slower than a start, and never be tried.
        """
        measured = self.rung_seconds.get(rung)
        if measured is not None:
            return measured
        if rung is Rung.ASLEEP:
            guess = UNMEASURED_WAKE_RATIO * self.start_seconds(Rung.CACHED)
            return min(TYPICAL_SECONDS[rung], guess)
        return TYPICAL_SECONDS[rung]


@cache
def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
