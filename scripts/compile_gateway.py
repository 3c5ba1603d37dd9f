"""Compile the gateway's hot modules with mypyc, if a C compiler and Python's headers are here.

    .venv/bin/python scripts/compile_gateway.py [--background]

Does nothing if these very sources are compiled already (50 ms); else takes about a minute. One at a
time: a second call waits for the first. The result appears whole or not at all; the gateway runs
interpreted without it. `--background` returns at once and lets a process of low priority do it.
Exit code 0 also where nothing can be compiled: it says so.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gateway import forms  # noqa: E402  found by the line above

_CHECKS = (
    # The project's own settings load Django's plugins, which the gateway has no use for.
    "--config-file=", "--strict", "--ignore-missing-imports", "--no-warn-unused-ignores",
)  # fmt: skip

_FLAGS = (
    # The modules are one library: its functions call each other without a detour over its symbols.
    "-fno-semantic-interposition", "-fvisibility=hidden", "-fno-plt",
)  # fmt: skip


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--background", action="store_true")
    options = parser.parse_args()
    if forms.built() is not None:
        return 0
    missing = _missing()
    if missing:
        _say(f"the gateway runs interpreted, at a third less speed: no {missing} here")
        return 0
    if options.background:
        _say("compiling the gateway in the background; it runs interpreted until the next start")
        _leave_behind()
        return 0
    forms.BUILDS.mkdir(parents=True, exist_ok=True)
    with (forms.BUILDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return 0 if forms.built() is not None else _build()


def _missing() -> str:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"C compiler ({compiler})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python headers (Python.h)"
    return ""


def _leave_behind() -> None:
    forms.BUILDS.mkdir(parents=True, exist_ok=True)
    with (forms.BUILDS / "log").open("wb") as log:
        subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            preexec_fn=lambda: os.nice(19),
        )  # fmt: skip


def _build() -> int:
    target = forms.BUILDS / forms.fingerprint()
    _say("compiling the gateway's hot modules (about a minute)")
    with tempfile.TemporaryDirectory(dir=forms.BUILDS) as folder:
        try:
            _compile(Path(folder))
        except (SystemExit, Exception) as error:  # noqa: BLE001  whatever it is: it runs anyway
            _say(f"not compiled, so the gateway runs interpreted: {error}")
            return 1
        if forms.BUILDS / forms.fingerprint() != target:
            _say("a source changed meanwhile: not kept")
            return 1
        (Path(folder) / "lib").rename(target)
    for old in forms.BUILDS.iterdir():
        if old.is_dir() and old != target:
            shutil.rmtree(old, ignore_errors=True)
    return 0


def _compile(folder: Path) -> None:
    from mypyc.build import mypycify  # noqa: PLC0415  seconds to import, and seldom needed
    from setuptools import Distribution  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    os.chdir(ROOT)
    modules = [f"gateway/{name}.py" for name in forms.COMPILED]
    extensions = mypycify(
        [*_CHECKS, f"--cache-dir={folder / 'cache'}", *modules],
        opt_level="2", debug_level="0", multi_file=True, group_name="hearth_gateway",
        target_dir=str(folder / "c"),
    )  # fmt: skip
    for extension in extensions:
        extension.extra_compile_args += _FLAGS
    build = build_ext(Distribution({"name": "gateway", "ext_modules": extensions}))
    build.build_lib, build.build_temp = str(folder / "lib"), str(folder / "objects")
    build.ensure_finalized()
    build.parallel = os.cpu_count() or 1
    build.run()


def _say(text: str) -> None:
    sys.stderr.write(f"hearth: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
