"""The folder of a replica, made ready for an engine. Called by both runtimes before a start."""

import stat
from pathlib import Path


def clear_sockets(run_dir: Path) -> None:
    """Remove the sockets that a killed engine left: the next one could not listen there."""
    for path in run_dir.iterdir():
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink(missing_ok=True)
