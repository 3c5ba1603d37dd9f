"""A gateway's own folder in the data directory: identity, table, usage log. One process each.

Several gateways of one machine share a data directory; each takes the first folder that no other
holds, so a restart comes back to a folder, and closes what a crash left in it. Called by
`gateway.program`.
"""

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

MOST_GATEWAYS = 64


class HomeError(OSError):
    """No folder can be had."""


@dataclass(slots=True)
class Home:
    """One held folder."""

    folder: Path
    gateway_id: str
    lock: int
    """Open descriptor whose lock holds the folder until the process ends."""

    @property
    def usage_log(self) -> Path:
        """Where the spool appends."""
        return self.folder / "usage.jsonl"

    @property
    def table(self) -> Path:
        """The last good routing table."""
        return self.folder / "table.json"


def open_home(data_dir: Path) -> Home:
    """Take a folder below `data_dir`. Raises HomeError."""
    for number in range(MOST_GATEWAYS):
        folder = data_dir / "gateway" / str(number)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(f"--data-dir {data_dir}: {error.strerror or error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return Home(folder, _identity(folder / "id"), lock)
    raise HomeError(f"--data-dir {data_dir}: {MOST_GATEWAYS} gateways run from it already")


def _identity(path: Path) -> str:
    try:
        known = path.read_text().strip()
    except FileNotFoundError:
        known = ""
    if known:
        return known
    fresh = f"gw-{secrets.token_hex(8)}"
    path.write_text(fresh + "\n")
    return fresh
