"""A host whose driver tells of GPUs takes models that need them, as far as no GPU is needed.

The driver is a stub library under the real NVML binding; what is shown is the way of its GPUs
through inventory, fit, price and placement.
"""

import subprocess
import sys

import pytest

from tests.agents.test_inventory import STUB
from tests.running import ROOT, Hearth, wait_until

pytestmark = pytest.mark.timeout(300)

TWO_H100 = "2:81920:1024:37:250000:NVIDIA H100 80GB HBM3"
NOWHERE = "http://127.0.0.1:9/simple"
LLAMA = "llama-3.3-70b-instruct"


@pytest.fixture(scope="module")
def gpu_host(simulated: Hearth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu-host")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(STUB)], check=True)
    token = simulated.api("POST", "join-tokens/").json()["token"]
    command = [sys.executable, "-m", "agents", "--control-plane", simulated.web]
    command += ["--data-dir", str(folder / "agent"), "--name", "gpu-1", "--join-token", token]
    command += ["--runtime", "process", "--stop-replicas", "process"]
    env = {**simulated.env, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML": TWO_H100}
    # No index: the engine for GPUs is gigabytes, and nothing here could run it.
    env |= dict.fromkeys(("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"), NOWHERE)
    env |= {"PIP_RETRIES": "0", "HEARTH_CACHE_DIR": str(folder / "cache")}
    with (folder / "agent.log").open("w") as log:
        agent = subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: simulated.api("GET", "hosts/gpu-1/").status_code == 200, 30, "the GPU host"
        )
        yield simulated.api("GET", "hosts/gpu-1/").json()
    finally:
        agent.terminate()
        agent.wait(timeout=15)
        simulated.api("POST", "hosts/gpu-1/drain/")


def plan(instance: Hearth, **order) -> dict:
    answer = instance.api("POST", "deployments/plan/", json={"engine": {"kind": "vllm"}, **order})
    assert answer.status_code == 200, answer.text
    return answer.json()


class TestGpuHost:
    def test_tells_its_gpus_and_costs_what_such_gpus_cost(self, gpu_host):
        assert [gpu["name"] for gpu in gpu_host["gpus"]] == ["NVIDIA H100 80GB HBM3"] * 2
        assert gpu_host["gpus"][0]["memory_total_bytes"] == 80 * 1024**3
        assert gpu_host["price_per_hour_usd"] > 1
        assert gpu_host["price_is_default"] is True

    def test_a_70b_model_fits_on_it_and_says_on_how_many_gpus(self, simulated, gpu_host):
        answers = {row["host"]: row for row in plan(simulated, catalog=LLAMA)["hosts"]}

        assert answers["gpu-1"]["fits"] is True
        assert answers["local"]["fits"] is False
        assert answers["gpu-1"]["gpus"] in (1, 2)
        assert answers["gpu-1"]["kv_cache_tokens"] > 10_000
        assert answers["gpu-1"]["full_length_requests"] >= 1

    def test_placement_books_a_gpu_for_an_order_that_wants_one(self, simulated, gpu_host):
        order = {"engine": {"kind": "vllm"}, "placement": {"host": "gpu-1", "device": "cuda"}}
        simulated.deploy("smollm2-135m-instruct", name="on-gpu", **order)

        def placed() -> dict:
            rows = simulated.api("GET", "deployments/on-gpu/replicas/").json()["results"]
            return next((row for row in rows if row["gpu_uuids"]), {})

        uuids = wait_until(placed, 20, "a GPU for the replica")["gpu_uuids"]
        assert uuids[0] in [gpu["uuid"] for gpu in gpu_host["gpus"]]
        decisions = simulated.api("GET", "deployments/on-gpu/decisions/").json()["results"]
        assert "gpu-1" in next(d["reason"] for d in decisions if d["kind"] == "placement")

        def failed() -> dict:
            rows = simulated.api("GET", "deployments/on-gpu/replicas/").json()["results"]
            return next((row for row in rows if row["code"] == "engine_install"), {})

        assert "vllm" in wait_until(failed, 60, "a clear failure")["reason"].lower()
        simulated.api("DELETE", "deployments/on-gpu/")
        wait_until(
            lambda: simulated.api("GET", "deployments/on-gpu/").status_code == 404, 60, "removal"
        )
