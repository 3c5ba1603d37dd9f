"""What /proc tells of processes: whether one still is the one that was started, and its memory.

A pid is reused; a pid with its start time in clock ticks and the machine's boot id is not. A
process that was killed but not reaped by its parent stays as a zombie and answers signals: it
counts as gone. Source: proc(5).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/<pid>/stat that matter here."""

    pid: int
    state: str
    group: int
    session: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        return self.state not in ("Z", "X", "x")


def stat(pid: int) -> Stat | None:
    """Return the process `pid`, None if there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name in parentheses may hold spaces and parentheses; fields count from behind it.
    fields = text.rpartition(")")[2].split()
    return Stat(pid, fields[0], int(fields[2]), int(fields[3]), int(fields[19]))


def is_same(pid: int, start_ticks: int) -> bool:
    """Return whether `pid` is alive and is the process that started at `start_ticks`."""
    now = stat(pid)
    return now is not None and now.is_alive and now.start_ticks == start_ticks


def session_members(session: int) -> Iterator[Stat]:
    """Yield every live process of `session`."""
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        found = stat(int(entry.name))
        if found is not None and found.session == session and found.is_alive:
            yield found


def pss_bytes(pid: int) -> int:
    """Return the memory of `pid` with shared pages divided among those who share them."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()
