"""Choose a host and GPUs for one replica: filter, score, pick. Pure.

First fit by free memory: among the hosts with room, the one with the fewest replicas of the same
deployment, then the most room left, then by name. A GPU is given whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from apps.deployments.reconcile.snapshot import Constraints, SeenGpu, SeenHost, WantedRevision
from apps.fleet.states import HostState

_GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Placed:
    host_id: UUID
    host_name: str
    gpu_uuids: tuple[str, ...]
    memory_bytes: int
    """Per GPU, or of the host's memory when there are no GPUs."""
    why: str
    refused: dict[str, str]
    """Host name -> why it was not taken."""


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
    refused: dict[str, str] = {}
    fitting: list[SeenHost] = []
    for host in hosts:
        if reason := _refusal(revision, constraints, host):
            refused[host.name] = reason
        else:
            fitting.append(host)
    if not fitting:
        return NotPlaced(why=_nowhere(refused), refused=refused)
    best = min(fitting, key=lambda h: (replicas_per_host.get(h.id, 0), -_room(revision, h), h.name))
    gpus = _gpus_for(revision, best)
    return Placed(
        host_id=best.id,
        host_name=best.name,
        gpu_uuids=tuple(gpu.uuid for gpu in gpus),
        memory_bytes=revision.bytes_per_gpu if gpus else revision.memory_bytes,
        why=_reason(revision, best, len(fitting)),
        refused=refused,
    )


def _refusal(revision: WantedRevision, constraints: Constraints, host: SeenHost) -> str:
    """Return why `host` cannot take a replica, empty if it can."""
    if constraints.host and host.name != constraints.host:
        return f"the order names host {constraints.host}"
    for key, value in constraints.labels.items():
        if host.labels.get(key) != value:
            return f"has no label {key}={value}"
    if host.state is not HostState.READY:
        return f"is {host.state}"
    if host.cordoned:
        return "is cordoned"
    return _no_room(revision, host)


def _no_room(revision: WantedRevision, host: SeenHost) -> str:
    if revision.gpus == 0:
        missing = revision.memory_bytes - host.free_memory_bytes
        return f"needs {_gib(missing)} more memory" if missing > 0 else ""
    free = len(_gpus_with_room(revision, host))
    if free >= revision.gpus:
        return ""
    return (
        f"needs {revision.gpus} GPUs with {_gib(revision.bytes_per_gpu)} free each, has {free}"
        if host.gpus
        else "has no GPU"
    )


def _gpus_with_room(revision: WantedRevision, host: SeenHost) -> list[SeenGpu]:
    return [g for g in host.gpus if not g.taken and g.free_bytes >= revision.bytes_per_gpu]


def _gpus_for(revision: WantedRevision, host: SeenHost) -> list[SeenGpu]:
    """Return the tightest GPUs that fit: large ones stay free for large models."""
    fitting = sorted(_gpus_with_room(revision, host), key=lambda g: (g.free_bytes, g.uuid))
    return fitting[: revision.gpus]


def _room(revision: WantedRevision, host: SeenHost) -> int:
    if revision.gpus == 0:
        return host.free_memory_bytes
    return sum(gpu.free_bytes for gpu in _gpus_with_room(revision, host))


def _nowhere(refused: dict[str, str]) -> str:
    if not refused:
        return "no host is enrolled"
    return "no host has room: " + "; ".join(f"{name} {why}" for name, why in refused.items())


def _reason(revision: WantedRevision, host: SeenHost, fitting: int) -> str:
    need = (
        f"{revision.gpus} GPUs with {_gib(revision.bytes_per_gpu)} each"
        if revision.gpus
        else f"{_gib(revision.memory_bytes)} of memory"
    )
    return f"{host.name} has room for {need}; {fitting} host{'s' * (fitting != 1)} fitted"


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
