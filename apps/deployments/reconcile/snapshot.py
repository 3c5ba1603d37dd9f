"""What one planning pass sees: frozen values, no rows. Built by `load`, read by `plan`.

A snapshot is complete for one deployment: its wishes, its replicas, and the room on every host
after all other deployments' reservations. Planning a snapshot twice gives the same steps.
"""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from apps.deployments.states import DeploymentPhase, DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState


@dataclass(frozen=True, kw_only=True)
class SeenGpu:
    uuid: str
    free_bytes: int
    """Really free: total, less what any process holds or our other replicas reserve."""
    taken: bool
    """Reserved by a replica of ours; a GPU is given whole."""
    compute_capability: str = ""


@dataclass(frozen=True, kw_only=True)
class SeenHost:
    id: UUID
    name: str
    state: HostState
    cordoned: bool
    labels: dict[str, str] = field(default_factory=dict)
    free_memory_bytes: int
    gpus: tuple[SeenGpu, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WantedRevision:
    """The newest revision: what every replica should become."""

    id: UUID
    number: int
    device: str
    gpus: int
    """GPUs a replica takes; 0 on a CPU host."""
    bytes_per_gpu: int
    memory_bytes: int
    """Host memory a replica takes on a CPU host."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Where replicas may go; empty means anywhere."""

    host: str = ""
    labels: dict[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    deployment_id: UUID
    name: str
    desired: DesiredDeployment
    wanted_replicas: int
    revision: WantedRevision
    constraints: Constraints
    replicas: tuple[SeenReplica, ...]
    """Every replica that is not stopped."""
    hosts: tuple[SeenHost, ...]
    drain_seconds: float = 30.0

    generation: int = 1
    observed_generation: int = 0
    phase: DeploymentPhase = DeploymentPhase.STARTING
    """As last written; with `reason` it tells whether the row must be written again."""
    reason: str = ""
