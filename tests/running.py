"""A whole Hearth, started as a person starts it, for flow and end-to-end tests.

`Hearth.start` runs `manage.py up` in a folder and on ports of its own and speaks to it only over
HTTP, as a script would.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_with_parent() -> None:
    """Let this process have SIGTERM when the one that started it is gone: for `preexec_fn`.

    A test run that is killed has no time to end what it started. Linux; the thread that starts the
    process has to live as long as the process is wanted.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def wait_until[T](check: Callable[[], T], timeout_seconds: float, what: str) -> T:
    """Return the first true value of `check`; fail with `what` after `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_seconds:g} s")
        _pause()


def _pause() -> None:
    left, right = socket.socketpair()
    with left, right, contextlib.suppress(TimeoutError):
        left.settimeout(POLL_SECONDS)
        left.recv(1)


@dataclass
class Hearth:
    """One running installation."""

    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    token: str = field(default_factory=lambda: f"test-{secrets.token_urlsafe(24)}")
    web_port: int = field(default_factory=free_port)
    gateway_port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    words: list[str] = field(default_factory=list)

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of `up`, without what the test run itself set."""
        inherited = {
            key: value
            for key, value in os.environ.items()
            if key not in ("REDIS_URL", "DATABASE_URL", "DJANGO_SETTINGS_MODULE")
            and not key.startswith("HEARTH_")
        }
        kept = {k: v for k, v in os.environ.items() if k in ("HEARTH_CACHE_DIR",)}
        return {
            **inherited,
            **kept,
            "HEARTH_DATA_DIR": str(self.data),
            "HEARTH_WEB_ADDR": f"127.0.0.1:{self.web_port}",
            "HEARTH_GATEWAY_ADDR": f"127.0.0.1:{self.gateway_port}",
            "HEARTH_API_TOKEN": self.token,
            "HEARTH_HOST_NAME": "local",
            **self.environment,
        }

    def start(self, timeout_seconds: float = 150.0) -> "Hearth":
        """Start and return once it says that it is ready."""
        self.words.clear()
        output = self.data.parent / f"{self.data.name}.up.log"
        with output.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "up"],
                env=self.env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

        def ready() -> bool:
            assert self.process is not None
            text = output.read_text()
            assert self.process.poll() is None, f"up ended early:\n{text}\n{self.logs()}"
            self.words[:] = text.splitlines()
            return "ready after" in text

        wait_until(ready, timeout_seconds, f"Hearth to be ready ({output.read_text()})")
        return self

    def stop(self, number: int = signal.SIGINT, timeout_seconds: float = 20.0) -> float:
        """End it as Ctrl-C does; return the seconds it took."""
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=timeout_seconds)
        output = self.data.parent / f"{self.data.name}.up.log"
        self.words[:] = output.read_text().splitlines()
        return time.monotonic() - begun

    def down(self, timeout_seconds: float = 120.0) -> None:
        """Drain and stop everything, as `make down` does."""
        subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "up", "--down"],
            env=self.env,
            cwd=ROOT,
            check=True,
            timeout=timeout_seconds,
        )
        if self.process is not None:
            self.process.wait(timeout=20)

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Call the REST API below `/api/v1/` as the administrator."""
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        # Loopback only: loading certificates would cost more than the call.
        with httpx.Client(base_url=self.web, timeout=30, verify=False) as client:
            return client.request(method, f"/api/v1/{path}", headers=headers, **options)

    def deployment(self, name: str) -> dict[str, Any]:
        """Return the deployment as the API tells it."""
        response = self.api("GET", f"deployments/{name}/")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def deploy(self, catalog: str, **order: Any) -> dict[str, Any]:
        """Order a deployment; return it as answered."""
        response = self.api("POST", "deployments/", json={"catalog": catalog, **order})
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        return found

    def wait_for(self, name: str, phase: str, timeout_seconds: float) -> dict[str, Any]:
        """Return the deployment once it is in `phase`; tell its events if it does not get there."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self.deployment(name)
            if found["phase"] == phase:
                return found
            if time.monotonic() > deadline or (found["phase"] == "failed" != phase):
                events = self.api("GET", f"deployments/{name}/events/").json()["results"]
                story = "\n".join(event["message"] for event in reversed(events))
                raise AssertionError(f"{name} is {found['phase']}, not {phase}:\n{story}")
            _pause()

    def key(self, **limits: Any) -> str:
        """Return the secret of a new API key."""
        return str(self.new_key(**limits)["key"])

    def new_key(self, **limits: Any) -> dict[str, Any]:
        """Return a new API key as the API shows it once: with its secret as `key`."""
        response = self.api("POST", "api-keys/", json={"name": "test"} | limits)
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    def requests_of(self, key_id: str) -> int:
        """Return how many requests are on record for one key; others may still be under way."""
        rows = self.api("GET", "usage/?group_by=key").json()["results"]
        return sum(row["requests"] for row in rows if row["group"] == key_id)

    def client(self, key: str) -> httpx.Client:
        """Return an HTTP client for the gateway with `key`."""
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.gateway, headers=headers, timeout=120, verify=False)

    def child(self, word: str) -> psutil.Process:
        """Return the child program with `word` in its command. Raises LookupError."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if any(word in part for part in child.cmdline()[1:4]):
                    return child
        raise LookupError(f"no child runs {word}")

    def new_child(self, word: str, old_pid: int, timeout_seconds: float) -> psutil.Process:
        """Return the child that took the place of process `old_pid`."""

        def fresh() -> psutil.Process | None:
            try:
                found = self.child(word)
            except LookupError:
                return None
            return found if found.pid != old_pid else None

        found = wait_until(fresh, timeout_seconds, f"a new {word}")
        assert found is not None
        return found

    def kill_replica(self, replica: dict[str, Any]) -> None:
        """Kill the engine of a replica of the process runtime, as a fault would."""
        pid = int(replica["runtime_ref"])
        for child in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("simulator" in part for part in child.cmdline()):
                    child.kill()

    def logs(self) -> str:
        """Return the last lines of every program's log."""
        parts = []
        for log in sorted((self.data / "logs").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            parts.append(f"--- {log.name}\n" + "\n".join(lines))
        return "\n".join(parts)


@contextlib.contextmanager
def hearth(data: Path, *, start_seconds: float = 180.0, **environment: str) -> Iterator[Hearth]:
    """Run a Hearth for the length of a `with`; nothing of it is left afterwards."""
    instance = Hearth(data=data, environment=environment)
    try:
        yield instance.start(start_seconds)
    finally:
        if instance.process is not None and instance.process.poll() is None:
            instance.down()
