"""The container of one engine, as the body of Docker Engine's "create container" call.

Pure: what the agent allows a container is decided here and nowhere else, so nothing of it can come
from an order. Read-only root, no capabilities, no network (the engine is reached by the Unix
socket in its run folder; one of several hosts needs the host's), an unprivileged user, bounded
memory, processes and log.
Source: Docker Engine API 1.41, ContainerCreate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.runtimes.base import CONTAINER_RUN_DIR, Launch, Mount

UNPRIVILEGED = 65532
"""User and group of engines where the agent is root; it has a name nowhere and owns nothing."""
PIDS_LIMIT = 4096
SHM_BYTES = 1 << 30
"""Shared memory between an engine's workers where the order names none."""
TMPFS = "rw,exec,nosuid,nodev,size=2g,mode=1777"
"""`exec` because compiled kernels are loaded from there."""
LOG_CONFIG = {"max-size": "16m", "max-file": "2"}
GPU_ULIMITS = ({"Name": "memlock", "Soft": -1, "Hard": -1},
               {"Name": "stack", "Soft": 67108864, "Hard": 67108864})  # fmt: skip
"""For pinned memory of GPU engines; dropped where the daemon may not raise limits."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of a container depends on the host and not on the launch."""

    user: str
    """`uid:gid`, numeric."""
    mounts: tuple[Mount, ...] = ()
    """Beside the launch's own: the engine environment for images that expect one."""
    ulimits: tuple[Mapping[str, object], ...] = ()


def create_body(launch: Launch, setting: Setting) -> dict[str, Any]:
    """Return the JSON body that creates the container of `launch`."""
    return {
        "Image": launch.image,
        **({"Entrypoint": list(launch.entrypoint)} if launch.entrypoint else {}),
        "Cmd": list(launch.argv),
        "Env": [f"{name}={value}" for name, value in sorted(launch.env.items())],
        "User": setting.user,
        "WorkingDir": CONTAINER_RUN_DIR,
        "Labels": dict(launch.labels),
        "StopSignal": "SIGTERM",
        "StopTimeout": int(launch.stop_grace_seconds),
        "HostConfig": _host_config(launch, setting),
    }


def _host_config(launch: Launch, setting: Setting) -> dict[str, Any]:
    run_dir = Mount(source=launch.run_dir, target=CONTAINER_RUN_DIR, read_only=False)
    config: dict[str, Any] = {
        "NetworkMode": "host" if launch.host_network else "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Tmpfs": {"/tmp": TMPFS},
        "IpcMode": "private",
        "ShmSize": launch.shm_bytes or SHM_BYTES,
        "PidsLimit": PIDS_LIMIT,
        "Init": True,  # reaps what engines orphan, and passes SIGTERM to the engine alone
        # The agent decides what is started again; an engine that died may exit with code 0.
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": dict(LOG_CONFIG)},
        "Mounts": [_bind(mount) for mount in (run_dir, *launch.mounts, *setting.mounts)],
        "Ulimits": [dict(limit) for limit in setting.ulimits],
    }
    if launch.memory_bytes is not None:
        # Equal to the memory, the sum with swap leaves no swap.
        config |= {"Memory": launch.memory_bytes, "MemorySwap": launch.memory_bytes}
    if launch.gpu_uuids:
        config["DeviceRequests"] = [_gpus(launch.gpu_uuids)]
    return config


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(mount.source.resolve()),
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }


def _gpus(uuids: tuple[str, ...]) -> dict[str, Any]:
    return {"Driver": "nvidia", "DeviceIDs": list(uuids), "Capabilities": [["gpu"]]}
