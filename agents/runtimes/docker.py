"""Runs engines as containers of a Docker Engine; the only module that talks to one.

The daemon is where DOCKER_HOST says, else at its usual socket. Every call runs in a thread and has
a deadline. A daemon that does not answer is `docker_down`: what it had been asked then is unknown,
so the caller looks with `find` before it asks again. Calls are idempotent by container name.

An image with the label `ai.hearth.engine-env` holds no engine: it names the folder at which it
expects the engine environment of this host, mounted read-only.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.utils import parse_repository_tag

from agents.engines.environment import ensure_environment, present_environment, tree_bytes
from agents.runtimes import cgroups
from agents.runtimes.base import LABEL_HOST, Instance, Launch, Mount, OnProgress, RuntimeFault
from agents.runtimes.container import GPU_ULIMITS, UNPRIVILEGED, Setting, create_body
from agents.runtimes.run_dir import clear_sockets
from agents.wire import EngineKind, Progress, RuntimeKind

type Details = dict[str, Any]
"""What the daemon tells of a container or image, as JSON."""

LABEL_ENGINE_ENVIRONMENT = "ai.hearth.engine-env"
LOCAL_REPOSITORY = "hearth/"
"""Images that are built on the host (deploy/engine-image) and never asked of a registry, where
that name could be anybody's."""
CALL_SECONDS = 30.0
"""For the daemon to answer anything but a pull or a stop."""
STOP_MARGIN_SECONDS = 30.0
"""For the daemon to kill a container after its grace."""
PULL_SECONDS = 4 * 3600.0
THREADS = 8
"""Calls under way at once; a daemon that hangs holds them for CALL_SECONDS at most."""


@dataclass(frozen=True)
class DockerRuntime:
    """The containers of one host id."""

    host_id: str
    engines_root: Path
    call_seconds: float = CALL_SECONDS
    kind: RuntimeKind = RuntimeKind.DOCKER
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, "docker")
    )
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _client: list[Any] = field(default_factory=list)

    async def check(self) -> None:
        """Raise RuntimeFault(`docker_down`) unless the daemon answers."""
        await self._call(lambda api: api.ping())

    async def can_have(self, image: str) -> bool:
        """Return whether `image` is here, or a registry that the daemon reaches has it."""
        if await self._call(partial(_image, image=image)) is not None:
            return True
        if image.startswith(LOCAL_REPOSITORY):
            return False
        try:
            await self._call(lambda api: api.inspect_distribution(image))
        except RuntimeFault as fault:
            if fault.code == "docker_down":
                raise
            return False
        return True

    async def prepare(self, engine: EngineKind, device: str, image: str, tell: OnProgress) -> str:
        """Bring `image`, and the engine environment if it expects one; return the version.

        Raises RuntimeFault(`image_missing` | `docker_down` | `disk_full` | `engine_install`).
        """
        details = await self._call(partial(_image, image=image))
        if details is None:
            await self._pull(image, tell)
            details = await self._call(partial(_image, image=image))
        if details is None:
            raise RuntimeFault("image_missing", f"the image {image} was removed while it was taken")
        if _labels(details).get(LABEL_ENGINE_ENVIRONMENT):
            return (await ensure_environment(self.engines_root, device, tell)).version
        return _version(image, _labels(details))

    async def image_bytes(self, engine: EngineKind, device: str, image: str) -> int | None:
        """Return the size of `image` on this host, with the engine environment it expects."""
        details = await self._call(partial(_image, image=image))
        if details is None:
            return None
        beside = 0
        if _labels(details).get(LABEL_ENGINE_ENVIRONMENT):
            environment = present_environment(self.engines_root, device)
            beside = await asyncio.to_thread(tree_bytes, environment.path) if environment else 0
        return int(details["Size"]) + beside

    async def start(self, launch: Launch) -> Instance:
        """Start `launch`, or return the container of that name that already runs.

        One that was made but never started, or that has ended, is replaced.
        """
        async with self._locks.setdefault(launch.name, asyncio.Lock()):
            known = await self._call(partial(_inspect, name=launch.name))
            if known is not None:
                self._must_be_ours(launch.name, known)
                if known["State"]["Running"]:
                    return _instance(known)
                await self._call(partial(_remove, name=launch.name))
            details = await self._call(partial(_image, image=launch.image))
            setting = self._setting(launch, details, await self._call(lambda api: api.info()))
            own = [launch.run_dir, *(m.source for m in launch.mounts if not m.read_only)]
            for folder in own:
                await asyncio.to_thread(_make_ready, folder, setting.user)
            return await self._create_and_start(launch, setting)

    async def find(self) -> list[Instance]:
        """Return every container of this host; one that is just being started is not among them."""
        starting = {name for name, lock in self._locks.items() if lock.locked()}
        found = await self._call(partial(_containers, host_id=self.host_id))
        return [one for item in found if (one := _instance(item)).name not in starting]

    async def stop(self, instance: Instance, grace_seconds: float) -> Instance:
        """SIGTERM, wait `grace_seconds`, SIGKILL; return it exited. Fine if already gone."""
        await self._call(
            partial(_stop, name=instance.name, grace_seconds=grace_seconds),
            timeout_seconds=grace_seconds + STOP_MARGIN_SECONDS,
        )
        ended = await self._call(partial(_inspect, name=instance.name))
        return instance.gone() if ended is None else _instance(ended)

    async def remove(self, instance: Instance) -> None:
        """Remove an exited container with its log; fine if it is gone."""
        await self._call(partial(_remove, name=instance.name))
        self._locks.pop(instance.name, None)

    async def log_tail(self, instance: Instance, lines: int) -> list[str]:
        """Return the last `lines` lines of stdout and stderr, oldest first."""
        text = await self._call(partial(_logs, name=instance.name, lines=lines))
        return text.decode(errors="replace").splitlines()

    async def memory_bytes(self, instance: Instance) -> int | None:
        """Return the memory of the whole container that cannot be dropped."""
        return await self._call(partial(_memory, name=instance.name))

    async def _call[T](
        self, ask: Callable[[docker.APIClient], T], *, timeout_seconds: float | None = None
    ) -> T:
        """Run `ask` on the daemon's API in a thread; put what goes wrong in the agent's words."""
        loop = asyncio.get_running_loop()
        timeout_seconds = timeout_seconds or self.call_seconds
        try:
            async with asyncio.timeout(timeout_seconds + 5.0):
                return await loop.run_in_executor(self._threads, self._ask, ask)
        except TimeoutError:
            late = f"Docker did not answer within {timeout_seconds:.0f} s"
            raise RuntimeFault("docker_down", late) from None
        except (OSError, DockerException) as fault:
            raise _in_words(fault) from fault

    def _ask[T](self, ask: Callable[[docker.APIClient], T]) -> T:
        if not self._client:
            # Learns the daemon's version, so it can fail; it is then made anew at the next call.
            self._client[:] = [docker.from_env(timeout=int(self.call_seconds)).api]
        return ask(self._client[0])

    async def _pull(self, image: str, tell: OnProgress) -> None:
        if image.startswith(LOCAL_REPOSITORY) or not image:
            raise RuntimeFault(
                "image_missing",
                f"the image {image or '(none)'} is not on this host and is in no registry: build "
                "it with deploy/engine-image/build.sh, or set HEARTH_ENGINE_IMAGE_CPU or "
                "HEARTH_ENGINE_IMAGE_CUDA to one that can be pulled",
            )
        loop, given_up = asyncio.get_running_loop(), threading.Event()

        def told(progress: Progress) -> None:
            loop.call_soon_threadsafe(lambda: tell(progress))

        pull = partial(_pull, image=image, given_up=given_up, tell=told)
        try:
            await self._call(pull, timeout_seconds=PULL_SECONDS)
        except RuntimeFault as fault:
            if fault.code in ("docker_down", "disk_full"):
                raise
            raise RuntimeFault(
                "image_missing", f"the image {image} is not on this host and cannot be had: {fault}"
            ) from fault
        finally:
            given_up.set()

    def _setting(self, launch: Launch, image: Details | None, info: Details) -> Setting:
        """Return what the host adds. Raises RuntimeFault(`image_missing` | `engine_install`)."""
        if image is None:
            raise RuntimeFault("image_missing", f"the image {launch.image} is not on this host")
        mounts: tuple[Mount, ...] = ()
        if target := _labels(image).get(LABEL_ENGINE_ENVIRONMENT):
            environment = present_environment(self.engines_root, launch.device)
            if environment is None:
                raise RuntimeFault(
                    "engine_install", "the engine environment is gone: bring it anew"
                )
            mounts = (Mount(source=environment.path, target=target),)
        ulimits = GPU_ULIMITS if launch.gpu_uuids else ()
        return Setting(user=_user(info), mounts=mounts, ulimits=ulimits)

    def _must_be_ours(self, name: str, details: Details) -> None:
        if _labels(details).get(LABEL_HOST) != self.host_id:
            raise RuntimeFault("refused", f"a container of another host is named {name}: remove it")

    async def _create_and_start(self, launch: Launch, setting: Setting) -> Instance:
        try:
            return await self._call(partial(_create_and_start, launch=launch, setting=setting))
        except RuntimeFault as fault:
            if "rlimit" not in str(fault) or not setting.ulimits:
                raise
        # A daemon without CAP_SYS_RESOURCE may not raise limits; engines start without them too.
        modest = Setting(user=setting.user, mounts=setting.mounts)
        return await self._call(partial(_create_and_start, launch=launch, setting=modest))


def _create_and_start(api: docker.APIClient, launch: Launch, setting: Setting) -> Instance:
    created = api.create_container_from_config(create_body(launch, setting), name=launch.name)
    try:
        api.start(created["Id"])
    except APIError:
        # Docker leaves what it could not start, and the name would be taken for ever.
        api.remove_container(created["Id"], force=True)
        raise
    return _instance(api.inspect_container(created["Id"]))


def _image(api: docker.APIClient, image: str) -> Details | None:
    try:
        details: Details = api.inspect_image(image)
    except NotFound:
        return None
    return details


def _inspect(api: docker.APIClient, name: str) -> Details | None:
    try:
        details: Details = api.inspect_container(name)
    except NotFound:
        return None
    return details


def _containers(api: docker.APIClient, host_id: str) -> list[Details]:
    label = f"{LABEL_HOST}={host_id}"
    listed = api.containers(all=True, filters={"label": [label]})
    inspected = (_inspect(api, item["Id"]) for item in listed)
    return [details for details in inspected if details is not None]


def _stop(api: docker.APIClient, name: str, grace_seconds: float) -> None:
    try:
        api.stop(name, timeout=max(int(grace_seconds), 1))
    except NotFound:
        return


def _remove(api: docker.APIClient, name: str) -> None:
    try:
        api.remove_container(name, v=True)
    except NotFound:
        return
    except APIError as fault:
        if "already in progress" not in str(fault):
            raise


def _logs(api: docker.APIClient, name: str, lines: int) -> bytes:
    try:
        text: bytes = api.logs(name, stdout=True, stderr=True, tail=lines)
    except NotFound:
        return b""
    return text


def _memory(api: docker.APIClient, name: str) -> int | None:
    details = _inspect(api, name)
    if details is None or not details["State"]["Running"]:
        return None
    group = cgroups.of_process(details["State"]["Pid"])
    if group is not None and (held := group.memory_bytes()) is not None:
        return held
    # Where the group cannot be read (a remote daemon) the daemon samples it, which takes 1 s.
    memory = api.stats(name, stream=False).get("memory_stats", {})
    usage, idle = memory.get("usage"), memory.get("stats", {}).get("inactive_file", 0)
    return None if usage is None else usage - idle


def _pull(
    api: docker.APIClient,
    image: str,
    tell: OnProgress,
    given_up: threading.Event,
) -> None:
    """Pull `image` until done or given up. Raises APIError or RuntimeFault."""
    repository, tag = parse_repository_tag(image)
    layers: dict[str, tuple[int, int]] = {}
    for line in api.pull(repository, tag=tag or "latest", stream=True, decode=True):
        if given_up.is_set():
            return
        if "error" in line:
            raise DockerException(line["error"])
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and "total" in detail:
            layers[line["id"]] = (detail["current"], detail["total"])
            done, total = (sum(column) for column in zip(*layers.values(), strict=True))
            tell(Progress(stage="image", done=done, total=total, ratio=min(done / total, 1.0)))


def _in_words(fault: Exception) -> RuntimeFault:
    """Return what went wrong; only an answer of the daemon tells that it is alive."""
    if isinstance(fault, APIError):
        words = str(fault.explanation or fault)
        code = "disk_full" if "no space left on device" in words else "refused"
        return RuntimeFault(code, f"Docker refused: {words}")
    if "no space left on device" in str(fault):
        return RuntimeFault("disk_full", f"Docker's disk is full: {fault}")
    host = os.environ.get("DOCKER_HOST", "its usual socket")
    return RuntimeFault("docker_down", f"Docker cannot be reached at {host}: {fault}")


def _user(info: Details) -> str:
    """Return `uid:gid` of engines: the agent's own, but never root.

    Root inside a rootless daemon's container is the agent's own user outside.
    """
    if any("rootless" in option for option in info.get("SecurityOptions") or ()):
        return "0:0"
    if os.geteuid() == 0:
        return f"{UNPRIVILEGED}:{UNPRIVILEGED}"
    return f"{os.geteuid()}:{os.getegid()}"


def _make_ready(folder: Path, user: str) -> None:
    """Give a folder to the engine's user, so that it can make its socket or its caches there."""
    clear_sockets(folder)
    if os.geteuid() == 0:
        uid, gid = (int(part) for part in user.split(":"))
        os.chown(folder, uid, gid)


def _labels(details: Details) -> dict[str, str]:
    labels: dict[str, str] = (details.get("Config") or {}).get("Labels") or {}
    return labels


def _version(image: str, labels: dict[str, str]) -> str:
    """Return the engine's version: the image's own word, else its tag."""
    tag = parse_repository_tag(image)[1] or ""
    return labels.get("org.opencontainers.image.version") or tag.removeprefix("v")


def _instance(details: Details) -> Instance:
    state = details["State"]
    ended = state["Status"] in ("exited", "dead")
    return Instance(
        name=details["Name"].removeprefix("/"),
        ref=details["Id"],
        labels=_labels(details),
        running=state["Running"],
        started_at=_unix_time(
            state["StartedAt"] if state["Running"] or ended else details["Created"]
        ),
        exit_code=state["ExitCode"] if ended else None,
        out_of_memory=state["OOMKilled"],
    )


def _unix_time(text: str) -> float:
    """Return an RFC 3339 time with nanoseconds as Unix seconds."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6] or '0'}+00:00").timestamp()
