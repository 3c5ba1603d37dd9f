"""A host whose driver tells of GPUs takes models that need them, as far as no GPU is needed.

The driver is a stub library under the real NVML binding; what is shown is the way of its GPUs
through inventory, fit, price and placement.
"""

import pytest

from tests.flows import gpu_hosts
from tests.running import Hearth, wait_until

pytestmark = pytest.mark.timeout(300)

LLAMA = "llama-3.3-70b-instruct"


@pytest.fixture(scope="module")
def gpu_host(simulated: Hearth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu-host")
    with gpu_hosts.gpu_host(simulated, folder, name="gpu-1", gpus=f"2:{gpu_hosts.H100}") as host:
        yield host


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
