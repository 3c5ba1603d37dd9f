"""What Hearth costs at rest: memory and CPU of every program of one installation, without engines.

Memory is PSS (`/proc/<pid>/smaps_rollup`): a page that several processes share counts once in the
sum. CPU is user plus system time (`/proc/<pid>/stat`), so other work on the machine delays the
answer but does not enter it. Processes are found by the data folder in their environment (the relay
leaves its parent's group) and as children of `up` (Redis writes over its environment). Called by
`__main__`.
"""

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from bench.main.figures import Result
from bench.main.programs import program
from tests.running import hearth

SETTLE_SECONDS = 30.0
"""Start-up work is over by then: first table, first flush, first sweep."""
WINDOW_SECONDS = 60.0
MEMORY_TARGET_MB = 450.0
CPU_TARGET_PERCENT = 3.0

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """One process at one moment."""

    pid: int
    name: str
    pss_bytes: int
    private_bytes: int
    cpu_seconds: float


def measure(folder: Path) -> Result:
    """Start Hearth in `folder`, let it rest, and return what it used."""
    with hearth(folder / "idle", HEARTH_RUNTIME="process") as instance:
        _wait(SETTLE_SECONDS)
        assert instance.process is not None
        up_pid = instance.process.pid
        before = {one.pid: one for one in usage(instance.data, up_pid)}
        _wait(WINDOW_SECONDS)
        after = usage(instance.data, up_pid)
    assert before.keys() == {one.pid for one in after}, "a program was restarted meanwhile"
    return _result(before, after)


def usage(data: Path, up_pid: int) -> list[Usage]:
    """Return every process of the installation in `data`, the largest first."""
    mark = f"HEARTH_DATA_DIR={data}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            is_child = int(_stat(entry)[1]) == up_pid
            if is_child or mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(_usage(entry))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return sorted(found, key=lambda one: -one.pss_bytes)


def _usage(entry: Path) -> Usage:
    rollup = dict(re.findall(r"^(\w+):\s+(\d+) kB", (entry / "smaps_rollup").read_text(), re.M))
    fields = _stat(entry)
    return Usage(
        pid=int(entry.name),
        name=program(int(entry.name)),
        pss_bytes=int(rollup["Pss"]) * 1024,
        private_bytes=(int(rollup["Private_Clean"]) + int(rollup["Private_Dirty"])) * 1024,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
    )


def _stat(entry: Path) -> list[str]:
    """Return the fields of proc_pid_stat(5) from the third on: state, parent, …"""
    return (entry / "stat").read_text().rpartition(")")[2].split()


def _result(before: dict[int, Usage], after: list[Usage]) -> Result:
    result = Result(part="idle", question="what does all of Hearth cost at rest, without engines?")
    total = sum(one.pss_bytes for one in after) / 1e6
    cpu = {one.pid: one.cpu_seconds - before[one.pid].cpu_seconds for one in after}
    percent = 100 * sum(cpu.values()) / WINDOW_SECONDS
    result.add("memory of all processes (PSS)", total, "MB", MEMORY_TARGET_MB)
    result.add(f"CPU over {WINDOW_SECONDS:.0f} s", percent, "% core", CPU_TARGET_PERCENT)
    result.table.append(("process", "PSS MB", "private MB", "CPU s", "CPU %"))
    for one in after:
        seconds = cpu[one.pid]
        result.table.append(
            (
                one.name,
                f"{one.pss_bytes / 1e6:.1f}",
                f"{one.private_bytes / 1e6:.1f}",
                f"{seconds:.2f}",
                f"{100 * seconds / WINDOW_SECONDS:.2f}",
            )
        )
    return result


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)
