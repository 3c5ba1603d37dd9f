"""Memory limits by control group, where this user may make one.

Both layouts: v1 (`/sys/fs/cgroup/memory/…`), and v2 where systemd delegated the parent of the
agent's own group (`Delegate=yes` with `DelegateSubgroup=`; the others are systemd's). Where
neither can be written, `create` says so by None and the process runtime's shim watches the memory
instead. RLIMIT_AS is no substitute: engines reserve address space many times over what they use.
"""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """One control group."""

    path: Path

    def memory_bytes(self) -> int | None:
        """Return the memory that cannot be dropped: usage less cache that nobody reads."""
        try:
            used = int(_first(self.path, "memory.current", "memory.usage_in_bytes"))
            pairs = (line.split() for line in (self.path / "memory.stat").read_text().splitlines())
            statistics = dict(pairs)
        except (OSError, ValueError):
            return None
        idle = statistics.get("total_inactive_file") or statistics.get("inactive_file") or "0"
        return max(used - int(idle), 0)

    def remove(self) -> None:
        """Remove the group; one that still has processes stays, which a later try removes."""
        try:
            self.path.rmdir()
        except OSError:
            return


def create(name: str, limit_bytes: int, *, root: Path = ROOT) -> Group | None:
    """Return a new group `name` limited to `limit_bytes`, None where none can be made."""
    for parent in _parents(root):
        group = Group(parent / name)
        try:
            group.path.mkdir(exist_ok=True)
            _limit(group.path, limit_bytes)
        except OSError:
            group.remove()
            continue
        return group
    return None


def of_process(pid: int, *, root: Path = ROOT) -> Group | None:
    """Return the group that bounds the memory of `pid`, None if it cannot be told."""
    try:
        own = _own_paths(str(pid))
    except OSError:
        return None
    base = root if (root / "cgroup.controllers").exists() else root / "memory"
    path = base / own.get("memory", own.get("", "")).lstrip("/")
    return Group(path) if path.is_dir() else None


def _parents(root: Path) -> list[Path]:
    """Return the groups under which one could be made, best first."""
    own = _own_paths()
    if (root / "cgroup.controllers").exists():
        here = root / own.get("", "").lstrip("/")
        # A group with processes of its own, as the agent's, cannot have limited children.
        return [here.parent] if _is_delegated(here.parent) and _bounds_memory(here.parent) else []
    base = root / "memory"
    here = base / own.get("memory", "").lstrip("/")
    return [path for path in dict.fromkeys((here, base)) if path.is_dir()]


def _own_paths(pid: str = "self") -> dict[str, str]:
    """Return controller -> path of a process; v2 has the empty controller."""
    paths: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _is_delegated(path: Path) -> bool:
    """Return whether systemd marked `path` as not its own; see systemd's CGROUP_DELEGATION."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _bounds_memory(path: Path) -> bool:
    """Let the children of `path` have memory limits; return whether they may."""
    try:
        (path / "cgroup.subtree_control").write_text("+memory")
        return "memory" in (path / "cgroup.subtree_control").read_text()
    except OSError:
        return False


def _limit(path: Path, limit_bytes: int) -> None:
    if (path / "memory.max").exists():
        (path / "memory.max").write_text(str(limit_bytes))
        (path / "memory.swap.max").write_text("0")
        return
    (path / "memory.limit_in_bytes").write_text(str(limit_bytes))
    with_swap = path / "memory.memsw.limit_in_bytes"
    if with_swap.exists():
        with_swap.write_text(str(limit_bytes))


def _first(folder: Path, *names: str) -> str:
    path = next((folder / name for name in names if (folder / name).exists()), folder / names[0])
    return path.read_text().strip()
