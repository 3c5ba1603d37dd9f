"""Runs engines as plain processes, for hosts without Docker.

Each engine has a folder under `state_dir`, named as its launch:

    launch.json   what was started; its presence makes the instance known
    pid.json      who it is: pid, start time, boot id (a recycled pid is never taken for it)
    exit.json     how it ended; the shim writes it, also while no agent is there

The shim (`shim.py`) is the engine's parent, so engines outlive the agent and their exit codes are
never lost. SIGTERM goes to the engine's main process alone, as in a container: its workers must
live on while it drains. SIGKILL goes to all of them.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents import commands
from agents.engines.environment import default_root, present_environment, tree_bytes
from agents.runtimes import cgroups, procfs
from agents.runtimes.base import Instance, Launch, OnProgress, RuntimeFault
from agents.runtimes.run_dir import clear_sockets
from agents.wire import EngineKind, RuntimeKind

SHIM = Path(__file__).with_name("shim.py")
LOG_LIMIT_BYTES = 16 << 20
"""Size at which a log is moved aside; one older file is kept."""
START_SECONDS = 30.0
"""For the shim to start an engine's process, not for the engine to be ready."""
KILL_SECONDS = 10.0
"""For processes to be gone after SIGKILL; longer means that the kernel holds them."""
POLL_SECONDS = 0.05
TAIL_BYTES = 256 * 1024
"""How much of a log's end is read for its last lines."""
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME")
"""All that an engine sees of the agent's environment: no credential of the agent is in it."""

type Prepare = Callable[[EngineKind, str, OnProgress], Awaitable[str]]
"""Brings the environment of an engine for a device; returns the engine's version."""


@dataclass(frozen=True)
class ProcessRuntime:
    """The engines that run as processes of this user, known by `state_dir`."""

    state_dir: Path
    bring: Prepare
    """Called by `prepare`; the agent passes `agents.engines.environment`'s."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    use_cgroups: bool = True
    log_limit_bytes: int = LOG_LIMIT_BYTES
    kind: RuntimeKind = RuntimeKind.PROCESS
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def prepare(self, engine: EngineKind, device: str, image: str, tell: OnProgress) -> str:
        """Bring the engine's own environment; return its version. `image` means nothing here."""
        return await self.bring(engine, device, tell)

    async def image_bytes(self, engine: EngineKind, device: str, image: str) -> int | None:
        """Return the size of the engine's environment, None for one that has none."""
        environment = present_environment(default_root(), device)
        if engine is EngineKind.SIMULATOR or environment is None:
            return None
        return await asyncio.to_thread(tree_bytes, environment.path)

    async def start(self, launch: Launch) -> Instance:
        """Start `launch`, or return the instance of that name that already runs.

        One that has ended is replaced, with its log.
        """
        async with self._locks.setdefault(launch.name, asyncio.Lock()):
            folder = self.state_dir / launch.name
            if (known := _instance(folder)) is not None:
                if known.running:
                    return known
                await asyncio.to_thread(_remove, folder)
            await asyncio.to_thread(self._write_launch, folder, launch)
            await _run_shim(folder)
            started = _instance(folder)
        if started is None:
            raise RuntimeFault("exit", f"{launch.name} was removed while it was started")
        return started

    async def find(self) -> list[Instance]:
        """Return every instance under `state_dir`; one that is being started is not among them."""
        starting = {name for name, lock in self._locks.items() if lock.locked()}
        return await asyncio.to_thread(self._find, starting)

    async def stop(self, instance: Instance, grace_seconds: float) -> Instance:
        """SIGTERM to the engine, wait `grace_seconds`, SIGKILL to all; return it exited."""
        folder = self.state_dir / instance.name
        _signal_main(folder, signal.SIGTERM)
        if not await _ended(folder, grace_seconds):
            await asyncio.to_thread(_kill_all, folder)
            await _ended(folder, KILL_SECONDS)
        stopped = _instance(folder) or instance.gone()
        if stopped.running:
            raise RuntimeFault(
                "exit", f"{instance.name} still runs {KILL_SECONDS:.0f} s after SIGKILL"
            )
        return stopped

    async def remove(self, instance: Instance) -> None:
        """Remove what is left of an exited instance: its records, its log, its control group."""
        await asyncio.to_thread(_remove, self.state_dir / instance.name)
        self._locks.pop(instance.name, None)

    async def log_tail(self, instance: Instance, lines: int) -> list[str]:
        """Return the last `lines` lines of the engine's output, oldest first."""
        launch = _read(self.state_dir / instance.name / "launch.json")
        if launch is None:
            return []
        return await asyncio.to_thread(_tail, Path(launch["log"]), lines)

    async def memory_bytes(self, instance: Instance) -> int | None:
        """Return the memory of all the engine's processes: its control group's, else their PSS."""
        return await asyncio.to_thread(_memory, self.state_dir / instance.name)

    def _write_launch(self, folder: Path, launch: Launch) -> None:
        limit = launch.memory_bytes
        # Two agents of one user may run replicas of the same name.
        group_name = f"{launch.name}-{zlib.crc32(bytes(folder)):08x}"
        group = cgroups.create(group_name, limit) if limit and self.use_cgroups else None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        launch.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        clear_sockets(launch.run_dir)
        record = {
            "name": launch.name,
            "labels": launch.labels,
            "argv": launch.argv,
            "env": self._environment(launch),
            "cwd": str(launch.run_dir),
            "log": str(launch.run_dir / f"{launch.name}.log"),
            "log_limit_bytes": self.log_limit_bytes,
            "memory_bytes": limit,
            "cgroup": str(group.path) if group else "",
        }
        partial = folder / "launch.json.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:  # the environment may hold the replica's key
            json.dump(record, out)
        partial.replace(folder / "launch.json")

    def _environment(self, launch: Launch) -> dict[str, str]:
        inherited = {name: self.environ[name] for name in _INHERITED if name in self.environ}
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(launch.gpu_uuids)}
        return inherited | gpus | launch.env

    def _find(self, starting: set[str]) -> list[Instance]:
        if not self.state_dir.is_dir():
            return []
        folders = (path for path in sorted(self.state_dir.iterdir()) if path.name not in starting)
        return [found for path in folders if (found := _instance(path)) is not None]


async def _run_shim(folder: Path) -> None:
    """Let the shim start the engine; it goes on in the background and this returns."""
    argv = [sys.executable, "-I", "-S", str(SHIM), str(folder)]
    try:
        await commands.run(argv, timeout_seconds=START_SECONDS)
    except commands.DeadlinePassed as fault:
        raise RuntimeFault("exit", f"the engine's process could not be started: {fault}") from fault


def _instance(folder: Path) -> Instance | None:
    """Return what is known of the instance in `folder`, None if it holds none."""
    launch = _read(folder / "launch.json")
    if launch is None:
        return None
    who = _read(folder / "pid.json") or {}
    running = _is_running(folder, who)
    # Read after the processes: the shim writes it before it goes, so a dead one has written it.
    ending = _read(folder / "exit.json") or {}
    return Instance(
        name=launch["name"],
        ref=str(who.get("pid", "")),
        labels=launch["labels"],
        running=running and not ending,
        started_at=who.get("started_at", (folder / "launch.json").stat().st_mtime),
        exit_code=ending.get("exit_code"),
        out_of_memory=ending.get("out_of_memory", False),
    )


def _is_running(folder: Path, who: Mapping[str, Any]) -> bool:
    """Return whether the engine, or the shim that is about to write how it ended, is alive."""
    if (folder / "exit.json").exists():
        return False
    if not who:  # a start that was interrupted: the shim may be about to write who it is
        return time.time() - (folder / "launch.json").stat().st_mtime < START_SECONDS
    if who["boot_id"] != procfs.boot_id():
        return False
    return procfs.is_same(who["pid"], who["start_ticks"]) or procfs.is_same(
        who["shim_pid"], who["shim_start_ticks"]
    )


def _remove(folder: Path) -> None:
    launch = _read(folder / "launch.json")
    if launch is not None:
        log = Path(launch["log"])
        log.unlink(missing_ok=True)
        log.with_name(f"{log.name}.1").unlink(missing_ok=True)
        if launch["cgroup"]:
            cgroups.Group(Path(launch["cgroup"])).remove()
    shutil.rmtree(folder, ignore_errors=True)


def _signal_main(folder: Path, number: signal.Signals) -> None:
    who = _read(folder / "pid.json")
    if who is None or not _is_running(folder, who):
        return
    if procfs.is_same(who["pid"], who["start_ticks"]):
        _kill(who["pid"], number)


def _kill_all(folder: Path) -> None:
    """SIGKILL every process of the engine's session but the shim, which writes how it ended."""
    who = _read(folder / "pid.json")
    if who is None or who["boot_id"] != procfs.boot_id():
        return
    for member in procfs.session_members(who["shim_pid"]):
        if member.pid != who["shim_pid"] and member.start_ticks >= who["shim_start_ticks"]:
            _kill(member.pid, signal.SIGKILL)


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


async def _ended(folder: Path, timeout_seconds: float) -> bool:
    """Wait until the instance in `folder` does not run; False if it still does in the end."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while (found := _instance(folder)) is not None and found.running:
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def _memory(folder: Path) -> int | None:
    launch, who = _read(folder / "launch.json"), _read(folder / "pid.json")
    if launch is None or who is None or not _is_running(folder, who):
        return None
    if launch["cgroup"]:
        return cgroups.Group(Path(launch["cgroup"])).memory_bytes()
    members = procfs.session_members(who["shim_pid"])
    return sum(procfs.pss_bytes(member.pid) for member in members)


def _tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of the log, going back into the older file if need be."""
    text = b""
    for path in (log, log.with_name(f"{log.name}.1")):
        if text.count(b"\n") < lines:
            text = _end_of(path) + text
    return text.decode(errors="replace").splitlines()[-lines:] if lines > 0 else []


def _end_of(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - TAIL_BYTES, 0))
            return stream.read()
    except OSError:
        return b""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value
