"""What this host's CPU can do, as Linux tells it."""

import re
from pathlib import Path


def cpu_features() -> frozenset[str] | None:
    """Return the features of this host's CPU, None where the system does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else None
