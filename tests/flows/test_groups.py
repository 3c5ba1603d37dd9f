"""A model that outgrows each host is served by two of them, as one replica that also ends as one.

The GPUs are a stub library under the real NVML binding, the engines simulators that meet and part
as vLLM's do.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.e2e.chats import stream
from tests.flows.gpu_hosts import H100, gpu_host
from tests.running import Hearth, wait_until

pytestmark = pytest.mark.timeout(300)

ORDER = {
    "catalog": "llama-3.3-70b-instruct",
    "variant": "bf16",
    "engine": {"kind": "simulator", "max_model_len": 8192},
    "placement": {"device": "cuda"},
}
"""141 GB of weights, for hosts with one GPU of 80 GiB each."""


@pytest.fixture(scope="module", autouse=True)
def pair(simulated: Hearth, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with ExitStack() as stack:
        for name in ("pair-1", "pair-2"):
            folder = tmp_path_factory.mktemp(name)
            stack.enter_context(gpu_host(simulated, folder, name=name, gpus=f"1:{H100}"))
        yield
        simulated.api("DELETE", "deployments/wide/")
        wait_until(
            lambda: simulated.api("GET", "deployments/wide/").status_code == 404, 60, "removal"
        )


def replicas(instance: Hearth) -> list[dict]:
    found: list[dict] = instance.api("GET", "deployments/wide/replicas/").json()["results"]
    return found


def engine_of(replica: dict, rank: int) -> psutil.Process:
    """Return the engine of one member; it runs on this machine too."""
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        signs = ("agents.simulator --uds ", f"{replica['id']}-g", f"--node-rank {rank}")
        if all(sign in words for sign in signs):
            return process
    raise LookupError(f"no engine of rank {rank}")


def test_the_dry_run_says_which_hosts_hold_it_together(simulated):
    plan = simulated.api("POST", "deployments/plan/", json=ORDER).json()

    assert plan["fits"] is True
    assert not any(host["fits"] for host in plan["hosts"])
    assert sorted(plan["group"]["hosts"]) == ["pair-1", "pair-2"]
    members = plan["first_replica"]["members"]
    assert [(m["rank"], len(m["gpu_uuids"])) for m in members] == [(0, 1), (1, 1)]
    assert {m["host"] for m in members} == {"pair-1", "pair-2"}


def test_it_starts_over_both_and_its_head_serves(simulated, client):
    order = {key: value for key, value in ORDER.items() if key != "catalog"}
    simulated.deploy(ORDER["catalog"], name="wide", **order)
    simulated.wait_for("wide", "ready", 60)

    (replica,) = replicas(simulated)
    head, worker = replica["members"]
    assert (head["rank"], head["host"]) == (0, replica["host"])
    assert {head["host"], worker["host"]} == {"pair-1", "pair-2"}
    assert [m["phase"] for m in (head, worker)] == ["ready", "ready"]
    answer = stream(client, "wide", "Hello", max_tokens=4)
    assert answer.is_complete
    assert answer.headers["x-hearth-replica"] == replica["id"]
    for name in ("pair-1", "pair-2"):
        assert simulated.api("GET", f"hosts/{name}/").json()["replicas"] == 1


def test_when_a_member_dies_the_whole_goes_and_comes_back(simulated, client):
    (first,) = replicas(simulated)
    engine_of(first, rank=1).kill()

    def replaced() -> dict | None:
        return next(
            (r for r in replicas(simulated) if r["id"] != first["id"] and r["phase"] == "ready"),
            None,
        )

    second = wait_until(replaced, 60, "another in its place")
    assert second["failures"] == 1
    assert [m["phase"] for m in second["members"]] == ["ready", "ready"]
    assert stream(client, "wide", "Hello again", max_tokens=4).is_complete
    with pytest.raises(LookupError):
        engine_of(first, rank=0)
    told = simulated.api("GET", "deployments/wide/events/").json()["results"]
    assert any("rank 1" in event["message"] for event in told)
    decisions = simulated.api("GET", "deployments/wide/decisions/").json()["results"]
    reasons = [d["reason"] for d in decisions if d["kind"] == "placement"]
    assert len(reasons) == 2
    assert "hold it together" in reasons[0]
