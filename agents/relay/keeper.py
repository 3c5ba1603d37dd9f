"""Keep this host's relay running: start it detached, adopt it, replace it when it is not ours.

The relay outlives the agent, so streams through it outlive a restart of the agent. It is known by
`relay.pid`, which it writes itself, and believed only if its `/healthz` answers with the same
process id and code version. What it may do stands in `relay.json`. Run by `agents.agent`.
"""

import asyncio
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.relay.files import CONFIG, LOG, Running, code_version, read_running
from agents.store import write_atomically

CHECK_INTERVAL_SECONDS = 5.0
START_SECONDS = 10.0
"""For a relay to listen after it was started."""
ANSWER_SECONDS = 3.0
LEAVE_SECONDS = 2.0
"""For an old relay to let go of its port; it may go on with its streams for longer."""

STEP_SECONDS = 0.05

log = logging.getLogger("hearth.agent")


@dataclass(frozen=True, kw_only=True)
class RelayPlan:
    """How the relay of this host is to run."""

    data_dir: Path
    listen: tuple[str, int] = ("127.0.0.1", 0)
    public_url: str = ""
    certificate: tuple[Path, Path] | None = None
    weights_root: Path | None = None
    """Folder of whole weights that other hosts may copy; None lends nothing."""


class RelayKeeper:
    """The relay of one agent folder."""

    def __init__(self, plan: RelayPlan) -> None:
        self._plan = plan
        self._version = code_version()
        self._routes: dict[str, str] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._keys: tuple[str, ...] = ()
        self._weights_keys: tuple[str, ...] = ()
        self._running: Running | None = None
        self.on_move: Callable[[], None] = lambda: None
        """Called when `url` has changed."""
        self._load_config()

    @property
    def url(self) -> str:
        """Return where gateways reach the relay, empty while it is not known to be up."""
        if self._running is None:
            return ""
        if self._plan.public_url:
            return self._plan.public_url
        scheme = "https" if self._plan.certificate else "http"
        host = f"[{self._running.host}]" if ":" in self._running.host else self._running.host
        return f"{scheme}://{host}:{self._running.port}"

    def set_routes(
        self, routes: dict[str, str], paths: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        """Say which replica listens where: replica id -> `unix:/path`, and which paths of its own
        a custom engine may be asked for."""
        if (routes, paths or {}) != (self._routes, self._paths):
            self._routes, self._paths = dict(routes), dict(paths or {})
            self._write_config()

    def set_keys(self, sha256: tuple[str, ...]) -> None:
        """Say whose keys the relay takes, as hex SHA-256 digests."""
        if sha256 != self._keys:
            self._keys = sha256
            self._write_config()

    def set_weights_keys(self, sha256: tuple[str, ...]) -> None:
        """Say which keys of other hosts may copy weights, as hex SHA-256 digests."""
        if sha256 != self._weights_keys:
            self._weights_keys = sha256
            self._write_config()

    async def run(self) -> None:
        """Look after the relay for ever: adopt the one that runs, else start one."""
        self._write_config()
        while True:
            before = self.url
            self._running = await self._ensure()
            if self.url != before:
                self.on_move()
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)

    async def _ensure(self) -> Running | None:
        running = read_running(self._plan.data_dir)
        if running is not None and await self._is_ours(running):
            return running
        if running is not None:
            await self._dismiss(running)
        return await self._start(running.port if running else 0)

    async def _is_ours(self, running: Running) -> bool:
        """Return whether the relay answers, from the code and on the address of this agent."""
        wanted_host, wanted_port = self._plan.listen
        if running.host != wanted_host or wanted_port not in (0, running.port):
            return False
        if running.version != self._version or not running.is_alive():
            return False
        return await _answers(self._plan, running)

    async def _start(self, last_port: int) -> Running | None:
        """Start a relay, on the port of the last one where that is free."""
        for port in dict.fromkeys((self._plan.listen[1] or last_port, self._plan.listen[1])):
            if (running := await self._start_on(port)) is not None:
                return running
        log.error("the relay did not start: see %s", self._plan.data_dir / LOG)
        return None

    async def _start_on(self, port: int) -> Running | None:
        process = await asyncio.to_thread(_spawn, self._plan, port)
        for _ in range(round(START_SECONDS / STEP_SECONDS)):
            if process.poll() is not None:
                return None
            running = read_running(self._plan.data_dir)
            if (
                running is not None
                and running.pid == process.pid
                and await _answers(self._plan, running)
            ):
                return running
            await asyncio.sleep(STEP_SECONDS)
        process.kill()
        return None

    async def _dismiss(self, running: Running) -> None:
        """Ask an old relay to leave: it lets go of its port at once and ends its streams."""
        if not running.is_alive():
            return
        os.kill(running.pid, signal.SIGTERM)
        for _ in range(round(LEAVE_SECONDS / STEP_SECONDS)):
            if not await _answers(self._plan, running):
                return
            await asyncio.sleep(STEP_SECONDS)

    def _load_config(self) -> None:
        """Take up what the last agent wrote: gateways go on while this one looks around."""
        try:
            config = json.loads((self._plan.data_dir / CONFIG).read_bytes())
            self._routes, self._keys = dict(config["routes"]), tuple(config["keys"])
            self._paths = {name: tuple(found) for name, found in config.get("paths", {}).items()}
        except (OSError, ValueError, KeyError):
            self._routes, self._paths, self._keys = {}, {}, ()

    def _write_config(self) -> None:
        config: dict[str, object] = {
            "routes": self._routes,
            "keys": self._keys,
            "weights_keys": self._weights_keys,
            "weights_root": str(self._plan.weights_root or ""),
        }
        if self._paths:
            config["paths"] = self._paths
        write_atomically(self._plan.data_dir / CONFIG, json.dumps(config).encode())


def stop_relay(data_dir: Path) -> bool:
    """End the relay of `data_dir`; return whether one ran."""
    running = read_running(data_dir)
    if running is None or not running.is_alive():
        return False
    os.kill(running.pid, signal.SIGTERM)
    return True


def _spawn(plan: RelayPlan, port: int) -> subprocess.Popen[bytes]:
    host = f"[{plan.listen[0]}]" if ":" in plan.listen[0] else plan.listen[0]
    argv = [sys.executable, "-m", "agents.relay", "--data-dir", str(plan.data_dir),
            "--listen", f"{host}:{port}"]  # fmt: skip
    if plan.certificate:
        argv += ["--tls-cert", str(plan.certificate[0]), "--tls-key", str(plan.certificate[1])]
    root = str(Path(__file__).resolve().parents[2])
    with (plan.data_dir / LOG).open("ab") as out:
        return subprocess.Popen(
            argv, cwd=root, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip


async def _answers(plan: RelayPlan, running: Running) -> bool:
    """Return whether what listens on that port is that very process."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(running.host, running.host)
    tls = ssl.create_default_context() if plan.certificate else None
    if tls is not None:  # asked on this host alone: who it is is known by the process id
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, running.port, ssl=tls)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n")
                answer = await reader.read()
            finally:
                writer.close()
        return bool(json.loads(answer.partition(b"\r\n\r\n")[2])["pid"] == running.pid)
    except (OSError, TimeoutError, ValueError, KeyError):
        return False
