"""Gateways as processes of their own, for tests of what only a process can do."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LISTENS = re.compile(rb"listening on https?://[^:]+:(\d+)")


class Process:
    """One `python -m gateway`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = b""
        self.port = 0
        self._grown = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            async with self._grown:
                self.log += line
                self._grown.notify_all()
        async with self._grown:
            self._grown.notify_all()

    async def says(self, pattern: bytes, seconds: float = 20.0) -> re.Match[bytes]:
        """Return the first match of `pattern` in the log, once it is there."""
        expression = re.compile(pattern)
        async with asyncio.timeout(seconds), self._grown:
            while not (found := expression.search(self.log)):
                if self._reader.done():
                    raise AssertionError(self.log.decode())
                await self._grown.wait()
        return found

    async def ends(self, seconds: float = 20.0) -> int:
        async with asyncio.timeout(seconds):
            code = await self.process.wait()
            await self._reader
        return code

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        self.process.kill()
        await self.ends()


async def start(*arguments: str, listening: bool = True, **environment: str) -> Process:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEARTH_")}
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "--listen", "127.0.0.1:0", *arguments,
            cwd=ROOT, env={**kept, **environment}, stderr=asyncio.subprocess.PIPE,
        )
    )  # fmt: skip
    if listening:
        found = await process.says(_LISTENS.pattern)
        process.port = int(found[1])
    return process


@contextlib.asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    started = await start(*arguments, **environment)
    try:
        yield started
    finally:
        if started.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                started.signal(signal.SIGKILL)
            await started.ends()


def write_table(path: Path, value: dict) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value))
    draft.replace(path)
