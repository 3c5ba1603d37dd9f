"""The small process between the agent and an engine: it stays when the agent goes.

Run as `python -I -S shim.py FOLDER` with nothing but the standard library. FOLDER/launch.json
says what to run; the shim starts it in a process group of its own, writes FOLDER/pid.json, keeps
the log under its limit, watches the memory where no control group does, and when the engine ends
writes FOLDER/exit.json, whole or not at all. So the exit code is known even to an agent that was
restarted meanwhile. It ignores SIGTERM: stopping is done to the engine, the shim follows.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

TICK_SECONDS = 1.0
"""How often log size and memory are looked at; the engine's end wakes the shim at once."""
REAP_SECONDS = 5.0
"""For what the engine leaves behind to die of SIGKILL."""
NOT_FOUND, OUT_OF_MEMORY = 127, 137
_PR_SET_CHILD_SUBREAPER = 36
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(folder: Path) -> int:
    """Run FOLDER's launch in a background process; return 0 once its pid is written."""
    ready, told = os.pipe()
    if os.fork():
        os.close(told)
        # The background process writes one byte when the engine runs, none when it failed.
        return 0 if os.read(ready, 1) else 1
    os.close(ready)
    os.setsid()
    launch = json.loads((folder / "launch.json").read_text())
    _detach(launch["log"])
    pid = _spawn(folder, launch)
    if pid is None:
        return 1
    _write(folder / "pid.json", _identity(pid))
    os.write(told, b"1")
    os.close(told)
    status, starved = _watch(pid, launch)
    _end_the_rest(pid)
    _write(folder / "exit.json", _verdict(status, starved, launch))
    return 0


def _detach(log: str) -> None:
    """Become the parent of whatever the engine orphans, deaf to signals meant for the engine.

    The caller waits for its pipe to close, so none of its descriptors may stay open; what goes
    wrong in here is told in the engine's log.
    """
    null, output = os.open(os.devnull, os.O_RDWR), os.open(log, _APPEND, 0o600)
    for target, source in enumerate((null, null, output)):
        os.dup2(source, target)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})


def _spawn(folder: Path, launch: dict[str, Any]) -> int | None:
    """Start the engine; None, with exit.json written, if that cannot be done."""
    failure, failed = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(launch, failed)
    os.close(failed)
    reason = os.read(failure, 4096)  # empty once the engine's program has taken over
    os.close(failure)
    if not reason:
        return pid
    os.waitpid(pid, 0)
    sys.stderr.write(f"cannot start {launch['argv'][0]}: {reason.decode()}\n")
    _write(folder / "exit.json", {"exit_code": NOT_FOUND, "out_of_memory": False})
    return None


def _become(launch: dict[str, Any], failed: int) -> NoReturn:
    """Turn this process into the engine, in a group of its own and within its memory.

    The shim stays out of the control group: it must outlive an engine that is killed for memory.
    """
    try:
        os.setpgid(0, 0)
        if launch["cgroup"]:
            (Path(launch["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
        os.chdir(launch["cwd"])
        os.dup2(2, 1)  # both into the log
        for number in (*_IGNORED, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(launch["argv"][0], launch["argv"], launch["env"])
    except OSError as fault:
        os.write(failed, str(fault).encode())
    finally:
        os._exit(NOT_FOUND)


def _identity(pid: int) -> dict[str, Any]:
    return {
        "pid": pid,
        "start_ticks": _start_ticks(pid),
        "shim_pid": os.getpid(),
        "shim_start_ticks": _start_ticks(os.getpid()),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "started_at": time.time(),
    }


def _watch(pid: int, launch: dict[str, Any]) -> tuple[int, bool]:
    """Wait for the engine's end; return its wait status and whether it was killed for memory."""
    limit = 0 if launch["cgroup"] else launch["memory_bytes"] or 0
    starved = False
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, TICK_SECONDS)
        while True:  # orphans of the engine are reaped here too
            ended, status = _reap()
            if ended == pid:
                return status, starved
            if ended == 0:
                break
        _cap_log(Path(launch["log"]), launch["log_limit_bytes"])
        if limit and not starved and _session_pss_bytes() > limit:
            starved = True
            os.killpg(pid, signal.SIGKILL)


def _reap() -> tuple[int, int]:
    """Reap one ended child; (0, 0) if there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _end_the_rest(pid: int) -> None:
    """Kill what is left of the engine's group and whatever else it orphaned."""
    deadline = time.monotonic() + REAP_SECONDS
    while time.monotonic() < deadline:
        for child in {pid, *_others()}:
            try:
                (os.killpg if child == pid else os.kill)(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        except ChildProcessError:
            return


def _others() -> list[int]:
    """Return the live processes of this session but for the shim."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _session(pid) == os.getpid()]


def _verdict(status: int, starved: bool, launch: dict[str, Any]) -> dict[str, Any]:
    """Return how the engine ended; a signal n counts as exit code 128 + n, as with containers."""
    code = os.waitstatus_to_exitcode(status)
    out_of_memory = starved or _cgroup_killed(launch["cgroup"])
    if out_of_memory:
        code = OUT_OF_MEMORY
    elif code < 0:
        code = 128 - code
    return {"exit_code": code, "out_of_memory": out_of_memory}


def _cgroup_killed(cgroup: str) -> bool:
    """Return whether the kernel killed anything in the group for want of memory."""
    for name in ("memory.events", "memory.oom_control"):
        try:
            lines = (Path(cgroup) / name).read_text().splitlines()
        except OSError:
            continue
        counts = dict(line.split() for line in lines)
        return int(counts.get("oom_kill", "0")) > 0
    return False


def _cap_log(log: Path, limit_bytes: int) -> None:
    """Keep one older file beside the log. The engine appends, so truncating leaves no hole."""
    if log.stat().st_size > limit_bytes:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def _session_pss_bytes() -> int:
    return sum(_pss_bytes(pid) for pid in _others())


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _session(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[3]) if fields and fields[0] != "Z" else -1


def _start_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if fields else -1


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _write(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(Path(sys.argv[1])))
