"""Run programs as children: start, watch, restart with back-off, end in time. Stdlib only.

Each child has a process group of its own, so that Ctrl-C in a terminal reaches the supervisor
alone, which then ends the children in its own order. Output goes to one log file a child.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOG_LIMIT_BYTES = 10 * 1024**2
"""A log above this is put aside as `<name>.log.1` when its child starts."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
HEALTHY_AFTER_SECONDS = 30.0
"""A child that ran this long starts its back-off anew."""


def say(text: str) -> None:
    """Print one line for the person at the terminal."""
    sys.stderr.write(f"hearth: {text}\n")
    sys.stderr.flush()


@dataclass
class Child:
    """One program."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log_dir: Path
    stop_signal: signal.Signals = signal.SIGTERM
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    ending: bool = False
    _started_at: float = field(default=0.0, repr=False)

    @property
    def log(self) -> Path:
        return self.log_dir / f"{self.name}.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start the program; its output is appended to its log."""
        _put_aside(self.log)
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                env={**os.environ, **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started_at = time.monotonic()

    async def keep(self) -> None:
        """Keep the program running until `end`; restart it with back-off when it dies."""
        pause = FIRST_PAUSE_SECONDS
        while not self.ending:
            if self.process is None:
                await self.start()
            code = await self._wait()
            if self.ending:
                return
            if time.monotonic() - self._started_at > HEALTHY_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            say(
                f"{self.name} ended with code {code}; starting it again in {pause:g} s ({self.log})"
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            self.restarts += 1
            self.process = None

    async def _wait(self) -> int:
        assert self.process is not None
        return await self.process.wait()

    async def end(self, timeout_seconds: float) -> None:
        """Ask the program to end; kill its whole group after `timeout_seconds`."""
        self.ending = True
        if self.process is None or not self.running:
            return
        self.process.send_signal(self.stop_signal)
        try:
            await asyncio.wait_for(self.process.wait(), timeout_seconds)
        except TimeoutError:
            say(f"{self.name} did not end in {timeout_seconds:g} s; killing it")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    def last_line(self) -> str:
        """Return the last line of the log, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


async def end_all(children: Iterable[Child], timeout_seconds: float) -> None:
    """End `children` at the same time."""
    await asyncio.gather(*(child.end(timeout_seconds) for child in children))


def _put_aside(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
