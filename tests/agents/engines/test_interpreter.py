"""Finding the Python that an engine's wheels exist for, among scripts that act as interpreters."""

from pathlib import Path

import pytest

from agents.engines.interpreter import ensure_interpreter
from agents.runtimes.base import RuntimeFault

MINOR = "3.99"
"""A version that no machine has, so that only the stand-ins can be found."""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with an empty PATH folder `bin`, no pyenv and no uv."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv"))
    return tmp_path


def _script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def _python(path: Path, version: str = MINOR, kind: str = "cpython") -> Path:
    return _script(path, f"echo {version} {kind} {path}")


async def test_a_shim_that_fails_is_skipped(machine):
    _script(machine / "bin" / "python3.99", "echo 'pyenv: command not found' >&2; exit 127")
    real = _python(machine / "pyenv" / "versions" / "3.99.4" / "bin" / "python")

    assert await ensure_interpreter(MINOR) == real


@pytest.mark.parametrize(
    ("version", "kind"), [("3.98", "cpython"), (MINOR, "pypy")], ids=["version", "implementation"]
)
async def test_what_calls_itself_so_but_is_not_is_skipped(machine, version, kind):
    _python(machine / "bin" / "python3.99", version, kind)
    real = _python(machine / "uv" / "cpython-3.99.0-linux" / "bin" / "python3.99")

    assert await ensure_interpreter(MINOR) == real


async def test_the_real_one_behind_a_virtual_environment_is_taken(machine):
    _script(machine / "bin" / "python3.99", f"echo {MINOR} cpython /opt/base/python3.99")

    assert await ensure_interpreter(MINOR) == Path("/opt/base/python3.99")


async def test_uv_fetches_one_where_none_is_found(machine):
    fetched = machine / "uv" / "cpython-3.99.1-linux" / "bin" / "python3.99"
    _script(
        machine / "bin" / "uv",
        f"/bin/mkdir -p {fetched.parent} && "
        f"printf '#!/bin/sh\\necho {MINOR} cpython {fetched}\\n' > {fetched} && "
        f"/bin/chmod +x {fetched}",
    )

    assert await ensure_interpreter(MINOR) == fetched


async def test_without_any_it_is_said_what_to_install(machine):
    _script(machine / "bin" / "uv", "echo 'error: No download found'; exit 1")

    with pytest.raises(RuntimeFault, match=r"CPython 3\.99.*No download found") as caught:
        await ensure_interpreter(MINOR)

    assert caught.value.code == "engine_install"
