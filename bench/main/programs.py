"""Which of Hearth's programs a process is, told by its command line. Used by `idle` and `live`."""

import re
from pathlib import Path

_PATTERNS = (
    ("up", r"manage\.py up"),
    ("redis", r"(redis|valkey)-server"),
    ("web", r"uvicorn"),
    ("controller", r"manage\.py reconcile"),
    ("worker", r"celery"),
    ("gateway", r"-m gateway"),
    ("relay", r"-m agents\.relay"),
    ("simulator", r"-m agents\.simulator"),
    ("agent", r"-m agents"),
)


def program(pid: int) -> str:
    """Return the program's name; the start of its command line for one that is not Hearth's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return "gone"
    command = b" ".join(words).decode(errors="replace")
    return next((name for name, pattern in _PATTERNS if re.search(pattern, command)), command[:40])
