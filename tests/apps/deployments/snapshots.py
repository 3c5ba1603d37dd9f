"""Snapshots for the planner's tests: every value has a default, a test names what matters."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from apps.deployments.reconcile.snapshot import (
    Constraints,
    SeenGpu,
    SeenHost,
    SeenReplica,
    Snapshot,
    WantedRevision,
)
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GIB = 1024**3
REVISION = UUID(int=2)
OLD_REVISION = UUID(int=1)
HOST = UUID(int=10)


def before(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def revision(**changes) -> WantedRevision:
    values = {
        "id": REVISION,
        "number": 2,
        "device": "cpu",
        "gpus": 0,
        "bytes_per_gpu": 0,
        "memory_bytes": 2 * GIB,
    }
    return WantedRevision(**{**values, **changes})


def replica(phase: ReplicaPhase = ReplicaPhase.READY, **changes) -> SeenReplica:
    values = {
        "id": uuid4(),
        "revision_id": REVISION,
        "revision_number": 2,
        "desired": DesiredReplica.RUNNING,
        "phase": phase,
        "phase_at": before(60),
        "created_at": before(120),
        "host_id": HOST,
        "host_state": HostState.READY,
    }
    return SeenReplica(**{**values, **changes})


def gpu(number: int, free_gib: float = 80, *, taken: bool = False, **changes) -> SeenGpu:
    return SeenGpu(uuid=f"GPU-{number}", free_bytes=int(free_gib * GIB), taken=taken, **changes)


def host(name: str = "alpha", *, gpus: tuple[SeenGpu, ...] = (), **changes) -> SeenHost:
    values = {
        "id": HOST if name == "alpha" else uuid4(),
        "name": name,
        "state": HostState.READY,
        "cordoned": False,
        "free_memory_bytes": 16 * GIB,
        "gpus": gpus,
    }
    return SeenHost(**{**values, **changes})


def snapshot(*replicas: SeenReplica, wanted: int = 1, **changes) -> Snapshot:
    values = {
        "deployment_id": UUID(int=99),
        "name": "chat",
        "desired": DesiredDeployment.RUNNING,
        "wanted_replicas": wanted,
        "revision": revision(),
        "constraints": Constraints(),
        "replicas": replicas,
        "hosts": (host(),),
    }
    return Snapshot(**{**values, **changes})
