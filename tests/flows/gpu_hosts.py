"""Agents whose driver tells of GPUs that are not there: a stub under the real NVML binding."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.agents.test_inventory import STUB
from tests.running import ROOT, Hearth, wait_until

H100 = "81920:1024:37:250000:NVIDIA H100 80GB HBM3"
NOWHERE = "http://127.0.0.1:9/simple"


@contextmanager
def gpu_host(instance: Hearth, folder: Path, *, name: str, gpus: str) -> Iterator[dict]:
    """Join a host `name` with `gpus`, as `<count>:<what one is>`; yield it as the API tells it."""
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(STUB)], check=True)
    token = instance.api("POST", "join-tokens/").json()["token"]
    agent = [sys.executable, "-m", "agents", "--data-dir", str(folder / "agent")]
    command = [*agent, "--control-plane", instance.web, "--name", name, "--join-token", token]
    command += ["--runtime", "process", "--stop-replicas", "process"]
    env = {**instance.env, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML": gpus}
    # No index: the engine for GPUs is gigabytes, and nothing here could run it.
    env |= dict.fromkeys(("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"), NOWHERE)
    env |= {"PIP_RETRIES": "0", "HEARTH_CACHE_DIR": str(folder / "cache")}
    with (folder / "agent.log").open("w") as log:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: instance.api("GET", f"hosts/{name}/").status_code == 200, 30, f"host {name}"
        )
        yield instance.api("GET", f"hosts/{name}/").json()
    finally:
        process.terminate()
        process.wait(timeout=15)
        subprocess.run([*agent, "drain-and-stop"], env=env, cwd=ROOT, check=True, timeout=30)
        instance.api("POST", f"hosts/{name}/drain/")
