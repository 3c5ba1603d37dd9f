"""Where engines keep what they compiled: one folder for all that would compile the same.

The key covers everything that changes what comes out: engine and version, the kind of hardware, the
weights, and the settings. So a second replica, and a second start, find kernels and graphs ready,
and one of another model never sees them. Each folder belongs to the user that engines run as, and
containers run as another user than processes: the runtime is part of the key.
"""

import hashlib
import shutil
from pathlib import Path

import msgspec

from agents.wire import EngineSpec, RuntimeKind

KEPT_FOLDERS = 32
"""Of one host; those not used for longest go."""


def key(spec: EngineSpec, version: str, hardware: str, runtime: RuntimeKind) -> str:
    """Return the name under which what `spec` compiles is shared."""
    settings = msgspec.json.encode(spec.settings, order="deterministic")
    parts = (
        spec.engine.value, version, spec.device, hardware, runtime.value, spec.task.value,
        spec.weights.key, spec.weights.source, str(len(spec.gpu_uuids)),
    )  # fmt: skip
    digest = hashlib.sha256("\0".join(parts).encode() + settings)
    return f"{spec.engine.value}-{version or 'unknown'}-{digest.hexdigest()[:16]}"


def folder(root: Path, spec: EngineSpec, version: str, hardware: str, runtime: RuntimeKind) -> Path:
    """Return the folder for `spec`, made if need be, as the most recently used one."""
    found = root / key(spec, version, hardware, runtime).replace("/", "_").replace(":", "_")
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    found.touch()
    return found


def prune(root: Path, keep: int = KEPT_FOLDERS) -> None:
    """Remove all but the `keep` folders that were used last."""
    if not root.is_dir():
        return
    newest_first = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in newest_first[keep:]:
        shutil.rmtree(old, ignore_errors=True)
