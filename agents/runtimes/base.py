"""What a runtime must do: run an engine somewhere and tell how it is.

A runtime knows nothing of models, orders or HTTP; it runs one `Launch` as one `Instance` and can
find its instances again after the agent was killed. Every call is idempotent by `Launch.name`;
a call that timed out leaves the truth unknown, so callers look with `find` before they act again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agents.wire import EngineKind, Progress, RuntimeKind

LABEL_REPLICA = "ai.hearth.replica"
LABEL_GENERATION = "ai.hearth.generation"
LABEL_DEPLOYMENT = "ai.hearth.deployment"
LABEL_HOST = "ai.hearth.host"
"""Host id: an agent adopts only what carries its own host's id."""

CONTAINER_RUN_DIR = "/run/hearth"
"""Where a container sees `Launch.run_dir`."""
CONTAINER_WEIGHTS_DIR = "/weights"
"""Where a container sees the unpacked weights; a mount of the launch."""
CONTAINER_CACHE_DIR = "/var/cache/hearth"
"""Where a container sees what engines like it compiled."""

type OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Mount:
    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One engine to run. Built by the agent from a typed spec, never taken from the wire."""

    name: str
    """`hearth-<replica id>-g<generation>`: the same order gives the same name."""
    labels: dict[str, str]
    engine: EngineKind
    device: str
    """`cpu` or `cuda`."""
    argv: tuple[str, ...]
    """Whole command line for the process runtime; arguments after the entrypoint for images."""
    env: dict[str, str]
    run_dir: Path
    """0700 folder of this replica: socket, log, caches. Mounted read-write."""
    image: str = ""
    entrypoint: tuple[str, ...] = ()
    """In place of the image's own, for containers."""
    mounts: tuple[Mount, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    stop_grace_seconds: float = 20.0
    host_network: bool = False
    """It talks with engines on other hosts; else a container has no network at all."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A container or process that this runtime started, running or not."""

    name: str
    ref: str
    """Container id, or process id."""
    labels: dict[str, str]
    running: bool
    started_at: float
    """Unix time."""
    exit_code: int | None = None
    out_of_memory: bool = False
    memory_bytes: int | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def replica_id(self) -> str:
        return self.labels[LABEL_REPLICA]

    @property
    def generation(self) -> int:
        return int(self.labels[LABEL_GENERATION])

    def gone(self) -> "Instance":
        """Return it as one that ended and whose records are gone: nobody knows how."""
        return Instance(
            name=self.name,
            ref=self.ref,
            labels=self.labels,
            running=False,
            started_at=self.started_at,
        )


class RuntimeFault(Exception):
    """The runtime could not do what was asked; `code` is one of ReplicaReport.code's words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Runtime(Protocol):
    """Docker, or plain processes."""

    @property
    def kind(self) -> RuntimeKind:
        """Return which runtime this is."""

    async def prepare(self, engine: EngineKind, device: str, image: str, tell: OnProgress) -> str:
        """Bring the engine image or environment; return the image or engine version to use.

        Idempotent and resumable. Raises RuntimeFault(`image_missing` | `engine_install` |
        `docker_down` | `disk_full`).
        """

    async def image_bytes(self, engine: EngineKind, device: str, image: str) -> int | None:
        """Return the size on disk of the image, or of the engine's environment."""

    async def start(self, launch: Launch) -> Instance:
        """Start `launch`, or return the instance of that name that already runs."""

    async def find(self) -> list[Instance]:
        """Return every instance of this host, running or exited, that was not removed."""

    async def stop(self, instance: Instance, grace_seconds: float) -> Instance:
        """SIGTERM, wait `grace_seconds`, SIGKILL; return it exited. Fine if already gone."""

    async def remove(self, instance: Instance) -> None:
        """Remove what is left of an exited instance. Its log stays readable until then."""

    async def log_tail(self, instance: Instance, lines: int) -> list[str]:
        """Return the last `lines` lines of stdout and stderr, oldest first, bad bytes replaced."""

    async def memory_bytes(self, instance: Instance) -> int | None:
        """Return memory held by the whole instance (cgroup, or PSS of the process group)."""
