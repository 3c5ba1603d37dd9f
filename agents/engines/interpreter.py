"""Find the CPython that an engine's wheels exist for, on a machine of any make.

A candidate counts only if it runs: a pyenv shim of a version that is not selected exists and
fails, and a Python built without ssl or sqlite3 cannot carry the engine. Where none is found uv
fetches one, if uv is here.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from agents import commands
from agents.runtimes.base import RuntimeFault

CHECK_SECONDS = 20.0
"""A Python that does not answer in this time does not count."""
FETCH_SECONDS = 300.0
"""For uv to download an interpreter of about 30 MB."""
_CHECK = (
    "import sys, ssl, ctypes, lzma, bz2, sqlite3, venv;"
    "print('%d.%d' % sys.version_info[:2], sys.implementation.name,"
    " getattr(sys, '_base_executable', sys.executable))"
)


async def ensure_interpreter(minor: str) -> Path:
    """Return a CPython of version `minor`, such as "3.11", that runs; let uv fetch one if need be.

    Raises RuntimeFault(`engine_install`) naming what to install.
    """
    if (found := await _first_that_runs(minor, candidates(minor))) is not None:
        return found
    uv = find_uv()
    if uv is not None:
        outcome = await commands.run(
            [str(uv), "python", "install", minor], timeout_seconds=FETCH_SECONDS
        )
        found = await _first_that_runs(minor, _of_uv(minor))
        if found is not None:
            return found
        why = outcome.tail[-1] if outcome.tail else f"uv ended with {outcome.exit_code}"
        raise RuntimeFault(
            "engine_install", f"the engine needs CPython {minor}; uv could not fetch it: {why}"
        )
    raise RuntimeFault(
        "engine_install",
        f"the engine needs CPython {minor} and none that runs was found: install python{minor}, "
        "or uv, and it is tried again",
    )


def find_uv() -> Path | None:
    """Return uv: from PATH, beside this Python, or from the tools folder of the repository."""
    if (on_path := shutil.which("uv")) is not None:
        return Path(on_path)
    places = (Path(sys.executable).parent, Path(__file__).parents[2] / ".tools" / "bin")
    return next((place / "uv" for place in places if (place / "uv").is_file()), None)


def candidates(minor: str) -> Iterator[Path]:
    """Yield every place where a CPython `minor` may stand, best first; none is tried here.

    The system's own comes first: an environment built on it outlives changes in a home folder.
    """
    name = f"python{minor}"
    for folder in ("/usr/bin", "/usr/local/bin", *os.get_exec_path(), "/opt/homebrew/bin"):
        yield Path(folder) / name
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(pyenv.glob(f"{minor}.*/bin/python"), reverse=True)
    yield from _of_uv(minor)
    yield from sorted(Path("/opt/python").glob(f"*/bin/{name}"))


def _of_uv(minor: str) -> Iterator[Path]:
    own = os.environ.get("UV_PYTHON_INSTALL_DIR")
    folder = Path(own) if own else Path.home() / ".local" / "share" / "uv" / "python"
    yield from sorted(folder.glob(f"cpython-{minor}.*/bin/python{minor}"), reverse=True)


async def _first_that_runs(minor: str, paths: Iterator[Path]) -> Path | None:
    for path in dict.fromkeys(paths):
        if os.access(path, os.X_OK) and (real := await _runs(path, minor)) is not None:
            return real
    return None


async def _runs(path: Path, minor: str) -> Path | None:
    """Return the real interpreter behind `path` if it is a whole CPython of version `minor`."""
    try:
        outcome = await commands.run([str(path), "-c", _CHECK], timeout_seconds=CHECK_SECONDS)
    except (OSError, commands.DeadlinePassed):
        return None
    if outcome.exit_code != 0 or not outcome.tail:
        return None
    version, implementation, executable = outcome.tail[-1].split(" ", 2)
    if version != minor or implementation != "cpython":
        return None
    return Path(executable)
