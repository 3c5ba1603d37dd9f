"""Choose how this host runs replicas: in Docker where that works, else as plain processes.

Docker works where its daemon answers and the engine's image is here or can be pulled. A host that
still has replicas stays with what runs them: after a reboot Docker may only be late.
Called once at the start by `agents.assembly`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.runtimes.base import RuntimeFault
from agents.wire import DesiredPhase, RuntimeKind, SyncReply

DOCKER_SOCKET = Path("/var/run/docker.sock")


class Docker(Protocol):
    """What is asked of a Docker runtime before it is chosen."""

    async def check(self) -> None:
        """Raise RuntimeFault unless the daemon answers."""

    async def can_have(self, image: str) -> bool:
        """Return whether `image` is here or can be pulled."""


@dataclass(frozen=True)
class Choice:
    kind: RuntimeKind
    reason: str
    """One sentence for people."""


async def choose(
    *,
    given: RuntimeKind | None,
    used: tuple[RuntimeKind, ...],
    desired: SyncReply | None,
    image: Callable[[], str],
    docker: Callable[[], Docker] | None,
) -> Choice:
    """Return the runtime to start replicas with, by the `image` that they would need.

    `docker` is None where no daemon is in sight.
    """
    if given is not None:
        return Choice(given, f"it was asked for: --runtime {given}")
    if used and _has_replicas(desired):
        return Choice(used[-1], "the replicas of this host already run there")
    if docker is None:
        return Choice(RuntimeKind.PROCESS, "there is no Docker daemon on this host")
    try:
        return await _by_image(docker(), image())
    except RuntimeFault as fault:
        return Choice(RuntimeKind.PROCESS, f"Docker's daemon does not answer: {fault}")


async def _by_image(docker: Docker, image: str) -> Choice:
    await docker.check()
    if await docker.can_have(image):
        return Choice(RuntimeKind.DOCKER, f"Docker's daemon answers and has or can pull {image}")
    return Choice(
        RuntimeKind.PROCESS,
        f"Docker's daemon answers, but the image {image} is not here and cannot be pulled",
    )


def is_docker_in_sight(env: Mapping[str, str] = os.environ) -> bool:
    """Return whether it is worth loading Docker's SDK to ask."""
    return bool(env.get("DOCKER_HOST")) or DOCKER_SOCKET.exists()


def _has_replicas(desired: SyncReply | None) -> bool:
    orders = desired.replicas if desired is not None else ()
    return any(order.desired is not DesiredPhase.ABSENT for order in orders)
