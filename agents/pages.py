"""Bring the files of weights into the kernel's page cache before an engine reads them."""

import os
from pathlib import Path

import psutil

SHARE_OF_FREE = 0.5
"""Of the memory that is free at most so much is filled: the cache must push nobody out."""


def bring(folder: Path) -> int:
    """Ask the kernel to read ahead the largest files of `folder`; return the bytes asked for.

    Returns at once: the kernel reads while the engine still imports. What does not fit into half
    of the free memory is left out.
    """
    left = int(psutil.virtual_memory().available * SHARE_OF_FREE)
    asked = 0
    files = sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    for path in files:
        size = path.stat().st_size
        if size > left - asked:
            break
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
        asked += size
    return asked
