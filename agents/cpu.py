"""This host's CPU, as Linux tells it."""

import platform
import re
from functools import cache
from pathlib import Path


def features() -> frozenset[str] | None:
    """Return the features of the CPU, None where the system does not list them."""
    flags = _first("flags")
    return None if flags is None else frozenset(flags.split())


def model() -> str:
    """Return the name of the CPU, empty if nothing tells it."""
    return _first("model name") or platform.processor()


def _first(name: str) -> str | None:
    """Return what the first CPU has under `name`."""
    found = re.search(rf"^{name}\s*:(.*)$", _told(), re.MULTILINE)
    return found[1].strip() if found else None


@cache
def _told() -> str:
    """Return /proc/cpuinfo, read once: what is asked of it does not change."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
