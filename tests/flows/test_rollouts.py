"""Each way for a new revision to take over, under 50 streams a second: nobody notices.

Real gateway, real controller, real agent; the engine is the simulator. What was counted is logged:
`pytest tests/flows/test_rollouts.py -o log_cli=true --log-cli-level=INFO`.
"""

import logging
from collections.abc import Iterator

import pytest

from tests.running import Hearth, wait_until
from tests.streams import Streams

pytestmark = pytest.mark.timeout(300)

log = logging.getLogger("rollouts")

FAST = {"load_seconds": 0.2, "decode_seconds_per_token": 0.01}
SLOW = {**FAST, "decode_seconds_per_token": 0.04, "prefill_tokens_per_second": 400}


@pytest.fixture(scope="module")
def key(simulated: Hearth) -> str:
    return simulated.key()


@pytest.fixture
def name(simulated: Hearth, request) -> Iterator[str]:
    """A deployment that serves, of two replicas for `rolling`; its name is the test's last word."""
    name = request.node.name.rsplit("_", 1)[-1]
    count = 2 if name == "rolling" else 1
    simulated.deploy(
        "smollm2-135m-instruct",
        name=name,
        engine={"kind": "simulator", "simulator": FAST},
        scaling={"min_replicas": count, "max_replicas": count},
    )
    wait_until(lambda: is_settled(simulated, name), 60, "replicas")
    yield name
    simulated.api("DELETE", f"deployments/{name}/")


def is_settled(instance: Hearth, name: str) -> bool:
    found = instance.deployment(name)
    is_whole = found["ready_replicas"] == found["wanted_replicas"]
    return found["phase"] == "ready" and is_whole and not found["rolling"]


def change(instance: Hearth, name: str, simulator: dict, **policy: object) -> None:
    """Order another revision, under this rollout policy."""
    engine = {"kind": "simulator", "simulator": simulator, "max_num_seqs": 32}
    body = {"engine": engine, "rollout": policy}
    answer = instance.api("PATCH", f"deployments/{name}/", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["rolling"]["candidate"] == 2


def last_rollout(instance: Hearth, name: str) -> dict:
    found: dict = instance.api("GET", f"deployments/{name}/rollouts/").json()["results"][0]
    return found


def replicas_of(instance: Hearth, name: str, revision: int) -> set[str]:
    rows = instance.api("GET", f"deployments/{name}/replicas/?stopped=true").json()["results"]
    return {row["id"] for row in rows if row["revision"] == revision}


def test_a_rolling_update_and_its_rollback_fail_and_cut_nothing_rolling(simulated, key, name):
    with Streams(simulated.gateway, key, name) as streams:
        wait_until(lambda: streams.completed > 50, 30, "traffic")
        change(simulated, name, FAST)
        wait_until(lambda: is_settled(simulated, name), 60, "the update")
        assert simulated.deployment(name)["revision"] == 2
        simulated.api("POST", f"deployments/{name}/rollback/", json={})
        wait_until(lambda: is_settled(simulated, name), 60, "the rollback")

    assert simulated.deployment(name)["revision"] == 3
    assert streams.completed > 200
    assert (streams.failed, streams.cut) == ([], [])
    log.info("update and rollback: %s streams, 0 failed, 0 cut", streams.completed)


def test_a_slower_canary_is_rolled_back_by_itself_canary(simulated, key, name):
    canary = {"weight_ratio": 0.3, "min_requests": 60, "max_cost_ratio": 100}
    with Streams(simulated.gateway, key, name) as streams:
        change(simulated, name, SLOW, strategy="canary", canary=canary)
        wait_until(
            lambda: last_rollout(simulated, name)["state"] == "rolled_back", 60, "the verdict"
        )
        wait_until(lambda: is_settled(simulated, name), 60, "the way back")

    rollout = last_rollout(simulated, name)
    worse = {m["name"]: m for m in rollout["verdict"]["measures"] if m["is_worse"]}
    assert "itl" in worse
    assert worse["itl"]["candidate_samples"] >= 15
    assert simulated.deployment(name)["revision"] == 1
    decisions = simulated.api("GET", f"deployments/{name}/decisions/").json()["results"]
    told = next(d for d in decisions if "back to revision 1" in d["reason"])
    assert told["inputs"]["measures"]
    assert streams.faults == []
    log.info("canary: %s streams, 0 failed, 0 cut; %s", streams.completed, rollout["reason"])


def test_shadows_warm_it_and_then_all_traffic_flips_at_once_bluegreen(simulated, key, name):
    policy = {"shadow_ratio": 0.5, "shadow_seconds": 5, "keep_seconds": 3}
    with Streams(simulated.gateway, key, name) as streams:
        change(simulated, name, FAST, strategy="blue_green", **policy)
        wait_until(lambda: last_rollout(simulated, name)["stage"] == "flipped", 60, "the flip")
        wait_until(lambda: is_settled(simulated, name), 60, "the end")

    new = replicas_of(simulated, name, 2)
    order = [replica in new for _, replica in sorted(streams.replicas)]
    first = order.index(True)
    assert all(order[first + 25 :])  # half a second for answers that were on their way
    assert first > 25
    assert streams.faults == []

    def copies() -> int:
        address = f"usage/?group_by=outcome&deployment={name}"
        rows = simulated.api("GET", address).json()["results"]
        return sum(row["shadow_requests"] for row in rows if row["group"] == "shadow")

    wait_until(lambda: copies() > 10, 10, "the copies' records")
    keys = simulated.api("GET", f"usage/?group_by=key&deployment={name}").json()["results"]
    assert sum(row["shadow_requests"] for row in keys if row["group"]) == 0
    log.info("blue/green: %s streams, 0 failed, 0 cut, %s copies", streams.completed, copies())


def test_requests_wait_while_all_is_made_anew_recreate(simulated, key, name):
    with Streams(simulated.gateway, key, name, rate=10.0) as streams:
        wait_until(lambda: streams.completed > 5, 30, "traffic")
        change(simulated, name, FAST, strategy="recreate")
        wait_until(lambda: is_settled(simulated, name), 60, "the update")

    assert streams.faults == []


def test_a_revision_that_never_starts_is_rolled_back_by_itself_broken(simulated, key, name):
    with Streams(simulated.gateway, key, name, rate=10.0) as streams:
        change(simulated, name, {**FAST, "fail": "exit_at_start"}, max_failures=1)
        wait_until(
            lambda: last_rollout(simulated, name)["state"] == "rolled_back", 60, "the way back"
        )
        wait_until(lambda: is_settled(simulated, name), 60, "rest")

    assert "failed 1 times in a row" in last_rollout(simulated, name)["reason"]
    assert streams.faults == []
