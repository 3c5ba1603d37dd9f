"""Where one installation stands: its addresses, its folders, and the lock that makes it one.

Read from the contract's environment variables by `up` before anything is started. Loads no Django
beyond its exceptions.
"""

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.environment import data_dir, redis_url, run_dir


class CannotStart(Exception):
    """Something the person must mend; the message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Addresses and folders of this installation."""

    data: Path
    run: Path
    web: str
    gateway: str
    host_name: str
    redis: str
    private_redis: bool

    @property
    def web_url(self) -> str:
        return f"http://{dialled(self.web)}"

    @property
    def gateway_url(self) -> str:
        return f"http://{dialled(self.gateway)}"

    @property
    def pid_file(self) -> Path:
        return self.run / "up.pid"


def find_places() -> Places:
    """Return the addresses and folders of the contract's environment variables."""
    data = data_dir()
    run = run_dir(data)
    if not os.access(data, os.W_OK):
        raise CannotStart(f"cannot write to {data}: set HEARTH_DATA_DIR to a folder you may write.")
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Places(
        data=data,
        run=run,
        web=_address("HEARTH_WEB_ADDR", "127.0.0.1:8000"),
        gateway=_address("HEARTH_GATEWAY_ADDR", "127.0.0.1:8080"),
        host_name=os.environ.get("HEARTH_HOST_NAME") or _own_name(),
        redis=redis_url(data),
        private_redis="REDIS_URL" not in os.environ,
    )


def check_port(variable: str, address: str) -> None:
    """Raise CannotStart if `address` cannot be listened on."""
    host, _, port = address.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except OSError as error:
        raise CannotStart(
            f"{address} cannot be used ({error.strerror}): end what listens there, "
            f"or set {variable} to another address."
        ) from error


@contextlib.contextmanager
def only_one(places: Places) -> Iterator[None]:
    """Hold the installation's lock; its file tells the pid to `down`."""
    places.pid_file.touch(mode=0o600)
    with places.pid_file.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotStart(
                f"Hearth already runs with {places.data} (process {file.read().strip()}): "
                "end it, or set HEARTH_DATA_DIR to another folder."
            ) from error
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.seek(0)
        file.truncate()


def running_pid(places: Places) -> int | None:
    """Return the pid of the `up` that holds the lock, None if none does."""
    try:
        with places.pid_file.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text else None
    except FileNotFoundError:
        pass
    return None


def _address(variable: str, default: str) -> str:
    value = os.environ.get(variable) or default
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise CannotStart(f"{variable}: {value!r} is not HOST:PORT, as {default}.")
    return value


def dialled(address: str) -> str:
    """Return where to dial what listens at `address`."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]", "::") else address


def _own_name() -> str:
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:63] or "local"
