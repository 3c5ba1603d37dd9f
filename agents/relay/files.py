"""The files between an agent and its relay, and the relay's own marks. Standard library only.

relay.json   written by the agent: {"routes": {replica id: "unix:/path"}, "keys": [sha256 hex]}
relay.pid    written by the relay once it listens: {"pid", "host", "port", "version"}
relay.log    what the relay prints
"""

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

CONFIG = "relay.json"
PIDFILE = "relay.pid"
LOG = "relay.log"


@dataclass(frozen=True)
class Running:
    """A relay as it described itself."""

    pid: int
    host: str
    port: int
    version: str

    def is_alive(self) -> bool:
        """Return whether that process runs and is a relay: process ids are used again."""
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return b"agents.relay" in words and state != b"Z"


def read_running(data_dir: Path) -> Running | None:
    """Return the relay that `relay.pid` names, None if there is none that can be read."""
    try:
        return Running(**json.loads((data_dir / PIDFILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_running(data_dir: Path, running: Running) -> None:
    draft = data_dir / f".{PIDFILE}.{running.pid}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(running), file)
    draft.replace(data_dir / PIDFILE)


def code_version() -> str:
    """Return a mark of the relay's code: an agent replaces a relay of other code."""
    mark = 0
    for source in sorted(Path(__file__).parent.glob("*.py")):
        mark = zlib.crc32(source.read_bytes(), mark)
    return f"{mark:08x}"
