"""Which form of the hot modules runs: compiled by mypyc, or the sources as they stand.

`scripts/compile_gateway.py` builds the compiled form into a folder named by the hash of everything
that goes into it. A form whose hash is not that of the sources here is never looked at, so a stale
one cannot run. Nothing but speed depends on the form. Called by `gateway.__main__`, before any
other module of the gateway is imported.
"""

import hashlib
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gateway

COMPILED = (
    "account", "admission", "app", "auth", "books", "breaker", "call", "core", "exchange", "fields",
    "fleet", "heads", "intake", "limits", "meter", "order", "prefix", "reading", "record", "relay",
    "request", "router", "server", "sink", "spool", "sse", "upstream",
)  # fmt: skip
"""Modules on the path of every request. Modules that define what msgspec decodes stay out."""

SOURCES = Path(__file__).parent
RECIPE = SOURCES.parent / "scripts" / "compile_gateway.py"
BUILDS = Path(sys.prefix) / "gateway"
"""Beside the packages of the interpreter that the form is built for."""

_CHOICE = "HEARTH_GATEWAY_FORM"
_COMPILED, _INTERPRETED = "compiled", "interpreted"


_FROM_MODULE = re.compile(r"from gateway\.(\w+) import")
_FROM_PACKAGE = re.compile(r"from gateway import \(?([\w,\s]+)")


class FormError(Exception):
    """The form that was asked for cannot run; one sentence says why."""


def fingerprint() -> str:
    """Return the hash of all that a compiled form depends on."""
    content = hashlib.sha256(f"{sys.version} {sys.platform} {_version('mypy')}".encode())
    for path in (*_sources(), RECIPE):
        content.update(path.name.encode() + b"\0")
        content.update(path.read_bytes() if path.exists() else b"")
    return content.hexdigest()[:32]


def _sources() -> list[Path]:
    """Return the compiled modules and all of the gateway that they import, directly or not."""
    seen: set[str] = set()
    left = list(COMPILED)
    while left:
        name = left.pop()
        path = SOURCES / f"{name}.py"
        if name in seen or not path.exists():
            continue
        seen.add(name)
        text = path.read_text()
        left += _FROM_MODULE.findall(text)
        left += " ".join(_FROM_PACKAGE.findall(text)).replace(",", " ").split()
    return [SOURCES / f"{name}.py" for name in sorted(seen)]


def built() -> Path | None:
    """Return the folder of the compiled form of just these sources, if it was built."""
    folder = BUILDS / fingerprint()
    return folder if folder.is_dir() else None


def activate() -> str:
    """Let imports find the compiled form if there is one; return the form that will run.

    `HEARTH_GATEWAY_FORM=interpreted` leaves it alone, `=compiled` insists on it. Raises FormError.
    """
    wish = os.environ.get(_CHOICE, "")
    if wish not in ("", _COMPILED, _INTERPRETED):
        raise FormError(f"{_CHOICE} is {wish!r}, and may be {_COMPILED} or {_INTERPRETED}")
    if active() == _COMPILED:
        return _COMPILED
    folder = built() if wish != _INTERPRETED else None
    if folder is None:
        if wish == _COMPILED:
            raise FormError("these sources are not compiled: run scripts/compile_gateway.py")
        return _INTERPRETED
    # Half of either form would be worse than the slower one.
    if not any(f"gateway.{name}" in sys.modules for name in COMPILED):
        sys.path.append(str(folder))
        gateway.__path__.insert(0, str(folder / "gateway"))
    return active()


def active() -> str:
    """Return the form that runs."""
    return _COMPILED if str(BUILDS) in gateway.__path__[0] else _INTERPRETED


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
