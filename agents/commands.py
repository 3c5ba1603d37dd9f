"""Run another program to its end: its lines as they come, a deadline, nothing left behind.

Used for what takes minutes: installing an engine, converting weights. The child leads a process
group of its own, which is killed whole when the deadline passes or the caller is cancelled.
"""

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

TAIL_LINES = 30
"""Lines kept of a program's output, to explain a failure."""
LINE_LIMIT_BYTES = 1 << 20
"""Longest line that is read; installers print short ones."""
READABLE_UMASK = 0o022
"""What is installed or converted is also read by the user that engines run as in containers."""


class DeadlinePassed(Exception):
    """A program did not end in time and was killed; `tail` holds its last lines."""

    def __init__(self, program: str, timeout_seconds: float, tail: tuple[str, ...]) -> None:
        super().__init__(f"{program} did not end within {timeout_seconds:.0f} s")
        self.tail = tail


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    """Negative: the signal that ended it."""
    tail: tuple[str, ...]
    """Last lines of stdout and stderr together, oldest first."""


async def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    keep_open: tuple[int, ...] = (),
) -> Outcome:
    """Run `argv` and return how it ended. `keep_open` are descriptors that the child inherits.

    Raises DeadlinePassed after `timeout_seconds`, OSError if the program cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=LINE_LIMIT_BYTES,
        pass_fds=keep_open,
        umask=READABLE_UMASK,
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        async with asyncio.timeout(timeout_seconds):
            await _read_lines(process, tail, on_line)
            exit_code = await process.wait()
    except TimeoutError:
        raise DeadlinePassed(argv[0], timeout_seconds, tuple(tail)) from None
    finally:
        await _end(process)
    return Outcome(exit_code, tuple(tail))


async def _read_lines(
    process: asyncio.subprocess.Process, tail: deque[str], on_line: Callable[[str], None] | None
) -> None:
    assert process.stdout is not None  # a pipe was asked for
    async for raw in process.stdout:
        line = raw.decode(errors="replace").rstrip()
        if not line:
            continue
        tail.append(line)
        if on_line is not None:
            on_line(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the whole group if the program still runs, and reap it."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
