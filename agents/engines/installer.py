"""Fill a Python environment with pip, and tell how far it is.

Called by `environment` alone. pip is used because it reads the machine's own settings (index,
mirrors, certificates). Downloads are kept until the environment is whole, so that a second try
after a broken one fetches only what is missing.
"""

import asyncio
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agents import commands
from agents.runtimes.base import OnProgress, RuntimeFault
from agents.wire import Progress

CREATE_SECONDS = 120.0
INSTALL_SECONDS = 3600.0
"""For the slowest index that is still worth waiting for."""
VERIFY_SECONDS = 300.0
TELL_SECONDS = 0.5
"""Progress is told at most this often."""
DOWNLOAD_SHARE, INSTALL_SHARE = 0.6, 0.95
"""Ratio of the whole that is done when all is downloaded, and when all is installed (measured)."""
EXPLAIN_LINES = 6
_NOT_FOR_PIP = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_USER", "PIP_PREFIX")


@dataclass(frozen=True)
class Site:
    """The environment that is being filled."""

    python: Path
    downloads: Path
    """Where pip keeps wheels until the environment is whole."""
    lock: int
    """Descriptor that every child inherits, so that an orphaned installer keeps the lock."""

    @property
    def folder(self) -> Path:
        return self.python.parents[1]


@dataclass(frozen=True)
class Plan:
    extra_index: str
    download_bytes: int
    tell: OnProgress


async def create(site: Site, interpreter: Path, pip_wheel: Path | None) -> None:
    """Make an empty environment with a pip in it: the one in `pip_wheel`, else the interpreter's.

    Debian's Python has `venv` but no `ensurepip` unless it was asked for.
    """
    venv = [str(interpreter), "-m", "venv", "--clear"]
    if pip_wheel is None:
        await _must(site, [*venv, str(site.folder)], CREATE_SECONDS)
        return
    await _must(site, [*venv, "--without-pip", str(site.folder)], CREATE_SECONDS)
    # A wheel of pip can be run as it is, and so can install itself without an index.
    pip = [str(site.python), f"{pip_wheel}/pip"]
    await _must(site, [*pip, "install", "--quiet", "--no-index", str(pip_wheel)], CREATE_SECONDS)


def own_pip_wheel() -> Path | None:
    """Return the wheel of pip that comes with the agent's own Python, None if it has none."""
    found = importlib.util.find_spec("ensurepip")
    if found is None or found.origin is None:
        return None
    return next((Path(found.origin).parent / "_bundled").glob("pip-*.whl"), None)


async def install(site: Site, requirements: Sequence[str], plan: Plan) -> None:
    """Install `requirements`; once more with the extra index if they are not all found.

    Raises RuntimeFault(`engine_install` | `disk_full`) with the installer's last lines.
    """
    pip = [str(site.python), "-m", "pip", "--no-input", "--cache-dir", str(site.downloads)]
    # Only a recent pip can print its progress for another program; an index need not have one.
    recent = await _succeeds(site, [*pip, "install", "--quiet", "--upgrade", "pip>=24.1"])
    command = [*pip, "install", "--progress-bar", "raw" if recent else "off", *requirements]
    outcome = await _with_progress(site, command, plan)
    if outcome.exit_code != 0 and plan.extra_index and _lacks_a_wheel(outcome):
        outcome = await _with_progress(
            site, [*command, "--extra-index-url", plan.extra_index], plan
        )
    _check(outcome, "installing the engine")


async def uninstall(site: Site, names: Sequence[str]) -> None:
    """Remove distributions; those that are not there do not matter."""
    if names:
        pip = [str(site.python), "-m", "pip", "--no-input"]
        await _must(site, [*pip, "uninstall", "--quiet", "--yes", *names], CREATE_SECONDS)


async def verify(site: Site, program: str) -> None:
    """Run `program` in the environment. Raises RuntimeFault(`engine_install`) if it fails."""
    await _must(site, [str(site.python), "-c", program], VERIFY_SECONDS)


def is_disk_full(text: str) -> bool:
    """Return whether an installer's words mean that the disk is full."""
    return "No space left on device" in text or "Errno 28" in text or "Disk quota" in text


@dataclass
class PipProgress:
    """Reads pip's lines; bytes come from its raw progress, packages from what stands on disk."""

    site_packages: Path
    download_bytes: int
    _whole_bytes: int = 0
    _current_bytes: int = 0
    _current_total: int = 0
    _packages: int = 0
    _packages_before: int = field(default=0)

    def read(self, line: str) -> None:
        match line.split():
            case ["Progress", done, "of", total] if done.isdigit() and total.isdigit():
                self._read_bytes(int(done), int(total))
            case ["Installing", "collected", "packages:", *names]:
                self._packages_before = self._count()
                self._packages = len(names)

    def _read_bytes(self, done: int, total: int) -> None:
        if done < self._current_bytes or total != self._current_total:
            self._whole_bytes += self._current_total
        self._current_bytes, self._current_total = done, total

    def now(self) -> Progress:
        """Return how far the whole is."""
        if self._packages:
            done = self._count() - self._packages_before
            share = min(max(done, 0) / self._packages, 1.0)
            ratio = DOWNLOAD_SHARE + (INSTALL_SHARE - DOWNLOAD_SHARE) * share
            return Progress(stage="engine", ratio=ratio)
        done = self._whole_bytes + self._current_bytes
        total = max(self.download_bytes, done)
        return Progress(
            stage="engine", done=done, total=total, ratio=DOWNLOAD_SHARE * done / max(total, 1)
        )

    def _count(self) -> int:
        return sum(1 for _ in self.site_packages.glob("*.dist-info"))


async def _with_progress(site: Site, argv: Sequence[str], plan: Plan) -> commands.Outcome:
    packages = next((site.folder / "lib").glob("python3*")) / "site-packages"
    progress = PipProgress(packages, plan.download_bytes)
    started = time.monotonic()
    ticker = asyncio.create_task(_tick(progress, plan.tell, started))
    try:
        return await _run(site, argv, INSTALL_SECONDS, on_line=progress.read)
    finally:
        ticker.cancel()


async def _tick(progress: PipProgress, tell: OnProgress, started: float) -> None:
    while True:
        now = progress.now()
        elapsed = time.monotonic() - started
        eta = elapsed / now.ratio - elapsed if now.ratio and now.ratio > 0.05 else None
        tell(msgspec.structs.replace(now, eta_seconds=eta))
        await asyncio.sleep(TELL_SECONDS)


async def _succeeds(site: Site, argv: Sequence[str]) -> bool:
    return (await _run(site, argv, CREATE_SECONDS)).exit_code == 0


async def _must(site: Site, argv: Sequence[str], timeout_seconds: float) -> None:
    _check(await _run(site, argv, timeout_seconds), " ".join(argv[:4]))


async def _run(
    site: Site,
    argv: Sequence[str],
    timeout_seconds: float,
    *,
    on_line: Callable[[str], None] | None = None,
) -> commands.Outcome:
    try:
        return await commands.run(
            argv,
            timeout_seconds=timeout_seconds,
            env=_environ(os.environ),
            on_line=on_line,
            keep_open=(site.lock,),
        )
    except commands.DeadlinePassed as fault:
        raise RuntimeFault("engine_install", f"{fault}\n{_explain(fault.tail)}") from fault


def _environ(own: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: the machine's pip settings yes, our own secrets no."""
    return {
        name: value
        for name, value in own.items()
        if name not in _NOT_FOR_PIP and not name.startswith("HEARTH_")
    }


def _check(outcome: commands.Outcome, what: str) -> None:
    if outcome.exit_code == 0:
        return
    explained = _explain(outcome.tail)
    code = "disk_full" if is_disk_full(explained) else "engine_install"
    raise RuntimeFault(code, f"{what} ended with exit code {outcome.exit_code}:\n{explained}")


def _explain(tail: Sequence[str]) -> str:
    """Return the last lines that are not progress."""
    lines = [line for line in tail if not line.startswith("Progress ")]
    return "\n".join(lines[-EXPLAIN_LINES:])


def _lacks_a_wheel(outcome: commands.Outcome) -> bool:
    return any("No matching distribution found" in line for line in outcome.tail)
