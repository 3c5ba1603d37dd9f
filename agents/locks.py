"""A lock file between processes: one of them builds a thing, the others wait for it.

`flock` belongs to the open file, so it ends with its holder, however that one dies; a child that
inherits the descriptor keeps it, which is wanted: what an orphaned installer still writes to
stays locked until that installer is gone.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

RETRY_SECONDS = 0.25
"""How often a waiting process looks whether the lock is free; `flock` has no event to wait on."""


@asynccontextmanager
async def held(path: Path, *, waiting: Callable[[], None] | None = None) -> AsyncIterator[int]:
    """Hold the lock file `path` and yield its descriptor; call `waiting` once if it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try(descriptor):
            if waiting is not None:
                waiting()
            while not _try(descriptor):  # noqa: ASYNC110 - another process holds it: no event to wait on
                await asyncio.sleep(RETRY_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
