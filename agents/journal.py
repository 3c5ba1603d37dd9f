"""Write-ahead journal: what the agent began with each replica, so that a killed agent knows.

One JSON line for each move, fsynced before the move is made; the last line of a replica counts.
It answers one question at the next start: an order says "run" and nothing runs; was it never
started (start it), or did it end while nobody watched (tell, do not start again)?
"""

import os
from enum import StrEnum
from pathlib import Path

import msgspec

from agents.store import sync_folder, write_atomically
from agents.wire import RuntimeKind

COMPACT_ABOVE_BYTES = 512 * 1024
"""Lines pile up with every move; past this size only the last line of each replica is kept."""


class Move(StrEnum):
    STARTING = "starting"  # intent: the runtime may or may not have been called
    STARTED = "started"  # the runtime said that it runs
    READY = "ready"
    ASLEEP = "asleep"  # the engine was put to sleep and the memory that came free was measured
    STOPPING = "stopping"  # intent
    STOPPED = "stopped"  # on order; final for this generation
    FAILED = "failed"  # final for this generation while the control plane is there
    CLEARED = "cleared"  # stopped by the host's own wish: the same order starts it anew
    FORGOTTEN = "forgotten"


class Past(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a replica's newest generation from the moves made with it."""

    replica_id: str
    generation: int
    move: Move
    at: float
    """Unix time of the move."""
    code: str = ""
    reason: str = ""
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    stage_seconds: dict[str, float] = {}
    restarts: int = 0
    """Starts of this generation after its first, all made while the control plane was away."""
    engine_version: str = ""
    kv_cache_tokens: int | None = None
    runtime: RuntimeKind | None = None


class Journal:
    """The journal of one agent folder. Only the process that holds the folder writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._past = _load(path)
        self._compact()

    def past(self, replica_id: str) -> Past | None:
        return self._past.get(replica_id)

    def write(self, past: Past) -> None:
        """Keep `past`; on return it is on the disk."""
        if past.move is Move.FORGOTTEN:
            self._past.pop(past.replica_id, None)
        else:
            self._past[past.replica_id] = past
        os.write(self._file, msgspec.json.encode(past) + b"\n")
        os.fsync(self._file)
        if os.fstat(self._file).st_size > COMPACT_ABOVE_BYTES:
            os.close(self._file)
            self._compact()

    def close(self) -> None:
        os.close(self._file)

    def _compact(self) -> None:
        lines = (msgspec.json.encode(past) + b"\n" for past in self._past.values())
        write_atomically(self._path, b"".join(lines))
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        sync_folder(self._path.parent)


def _load(path: Path) -> dict[str, Past]:
    """Return the last line of each replica; a half-written last line is a move never made."""
    known: dict[str, Past] = {}
    if not path.exists():
        return known
    for line in path.read_bytes().splitlines():
        try:
            past = msgspec.json.decode(line, type=Past)
        except msgspec.DecodeError:
            continue
        if past.move is Move.FORGOTTEN:
            known.pop(past.replica_id, None)
        else:
            known[past.replica_id] = past
    return known
