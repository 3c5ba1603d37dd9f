"""The environment of a custom engine: its pinned packages alone, on the agent's own Python.

One folder a set of requirements, shared by all replicas that want the same; a stamp written last
says that it is whole, a lock keeps two from building it.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from agents import locks
from agents.engines import installer
from agents.runtimes.base import OnProgress, RuntimeFault
from agents.wire import Progress

STAMP = "complete.json"
DISK_BYTES = 1_000_000_000
"""Free space needed to begin."""


async def ensure(root: Path, requirements: Sequence[str], tell: OnProgress) -> Path:
    """Return the folder with the programs of `requirements`, building it if need be.

    Raises RuntimeFault(`engine_install` | `disk_full`).
    """
    path = folder(root, requirements)
    if (path / STAMP).is_file():
        return path / "bin"
    try:
        async with locks.held(
            root / f"{path.name}.lock", waiting=lambda: tell(Progress(stage="engine"))
        ) as lock:
            if not (path / STAMP).is_file():
                await _build(path, requirements, tell, lock)
    except OSError as fault:
        code = "disk_full" if installer.is_disk_full(str(fault)) else "engine_install"
        raise RuntimeFault(code, f"cannot build the engine environment: {fault}") from fault
    return path / "bin"


def folder(root: Path, requirements: Sequence[str]) -> Path:
    """Return where the environment of `requirements` lies."""
    recipe = json.dumps([sorted(requirements), list(sys.version_info[:2])])
    return root.absolute() / f"custom-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


async def _build(path: Path, requirements: Sequence[str], tell: OnProgress, lock: int) -> None:
    tell(Progress(stage="engine", ratio=0.0))
    if shutil.disk_usage(path.parent).free < DISK_BYTES:
        raise RuntimeFault(
            "disk_full", f"less than {DISK_BYTES / 1e9:.0f} GB free at {path.parent}"
        )
    shutil.rmtree(path, ignore_errors=True)
    interpreter = Path(getattr(sys, "_base_executable", sys.executable))
    site = installer.Site(
        python=path / "bin" / "python", downloads=path.parent / f"{path.name}.pip", lock=lock
    )
    await installer.create(site, interpreter, installer.own_pip_wheel())
    plan = installer.Plan(extra_index="", download_bytes=60_000_000, tell=tell)
    await installer.install(site, tuple(requirements), plan)
    partial = path / f"{STAMP}.partial"
    partial.write_text(json.dumps({"requirements": list(requirements)}))
    partial.replace(path / STAMP)
    shutil.rmtree(site.downloads, ignore_errors=True)
    tell(Progress(stage="engine", ratio=1.0, eta_seconds=0.0))
