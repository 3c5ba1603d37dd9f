"""From an order to tokens and back to nothing, with every part real but the engine."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.chats import Traffic, stream
from tests.running import Hearth, wait_until

pytestmark = pytest.mark.timeout(300)

SMOL = "smollm2-135m-instruct"


def gone(instance: Hearth, name: str) -> bool:
    return instance.api("GET", f"deployments/{name}/").status_code == 404


def remove(instance: Hearth, name: str) -> None:
    instance.api("DELETE", f"deployments/{name}/")
    wait_until(lambda: gone(instance, name), 60, f"{name} to be gone")


@pytest.fixture(scope="module")
def name(simulated: Hearth) -> Iterator[str]:
    """A deployment that serves."""
    simulated.deploy(SMOL, name="story")
    simulated.wait_for("story", "ready", 60)
    yield "story"
    remove(simulated, "story")


class TestOneDeployment:
    def test_says_that_it_is_a_simulation(self, simulated, name):
        assert simulated.deployment(name)["simulated"] is True

    def test_streams_a_complete_answer_with_usage(self, client, name):
        answer = stream(client, name, "hello", max_tokens=8)

        assert answer.is_complete
        assert answer.usage["completion_tokens"] == 8

    def test_a_repeated_prompt_comes_from_the_prefix_cache(self, client, name):
        prompt = "one two three four five " * 200

        first = stream(client, name, prompt, max_tokens=2)
        second = stream(client, name, prompt, max_tokens=2)

        assert (
            second.usage["prompt_tokens_details"]["cached_tokens"]
            > 0.9 * (first.usage["prompt_tokens"])
        )

    def test_open_streams_show_as_in_flight_within_a_second_and_a_half(
        self, simulated, client, name
    ):
        body = {"model": name, "stream": True, "max_tokens": 2000, "ignore_eos": True}
        body["messages"] = [{"role": "user", "content": "a long story"}]
        with ExitStack() as held:
            for _ in range(7):
                answer = held.enter_context(
                    client.stream("POST", "/v1/chat/completions", json=body)
                )
                assert answer.status_code == 200
            wait_until(
                lambda: simulated.deployment(name)["live"]["in_flight"] == 7, 1.5, "7 in flight"
            )
        wait_until(lambda: simulated.deployment(name)["live"]["in_flight"] == 0, 3, "0 in flight")

    def test_lists_it_for_applications(self, client, name):
        assert name in [row["id"] for row in client.get("/v1/models").json()["data"]]

    def test_scales_by_hand_and_back_without_losing_a_request(self, simulated, client, name):
        path = f"deployments/{name}/"
        with Traffic(client, name) as traffic:
            simulated.api("PATCH", path, json={"scaling": {"min_replicas": 3}})
            wait_until(lambda: simulated.deployment(name)["ready_replicas"] == 3, 60, "3 ready")
            simulated.api("PATCH", path, json={"scaling": {"min_replicas": 1}})
            wait_until(lambda: simulated.deployment(name)["phase"] == "ready", 60, "1 left")
            done = traffic.completed
            wait_until(lambda: traffic.completed > done + 2, 30, "traffic to go on")

        assert traffic.faults == []

    def test_a_new_revision_takes_over_without_losing_a_request(self, simulated, client, name):
        path = f"deployments/{name}/"
        with Traffic(client, name) as traffic:
            wait_until(lambda: traffic.completed > 1, 30, "traffic")
            answer = simulated.api("PATCH", path, json={"engine": {"max_num_seqs": 4}})
            assert answer.status_code == 200, answer.text
            wait_until(
                lambda: (
                    simulated.deployment(name)["revision"] == 2
                    and simulated.deployment(name)["phase"] == "ready"
                ),
                60,
                "revision 2",
            )

        assert traffic.faults == []

    def test_requests_go_on_while_the_control_plane_is_away(self, simulated, client, name):
        web = simulated.child("uvicorn")
        web.suspend()
        try:
            answers = [stream(client, name, "hello", max_tokens=4) for _ in range(3)]
        finally:
            web.resume()

        assert all(answer.is_complete for answer in answers)

    def test_a_killed_agent_comes_back_to_the_same_replica(self, simulated, client, name):
        before = replica_refs(simulated, name)
        old = simulated.child("agents")

        with Traffic(client, name) as traffic:
            old.kill()
            simulated.new_child("agents", old.pid, timeout_seconds=30)
            done = traffic.completed
            wait_until(lambda: traffic.completed > done + 2, 30, "traffic to go on")

        assert traffic.faults == []
        assert replica_refs(simulated, name) == before

    def test_stops_and_starts_again(self, simulated, client, name):
        simulated.api("POST", f"deployments/{name}/stop/")
        simulated.wait_for(name, "stopped", 60)
        simulated.api("POST", f"deployments/{name}/start/")

        simulated.wait_for(name, "ready", 60)
        wait_until(lambda: answers(client, name), 10, "an answer")

    def test_usage_has_one_row_a_request(self, simulated, name):
        made = simulated.new_key(name="counted")
        with simulated.client(made["key"]) as counted:
            for _ in range(5):
                stream(counted, name, "count me", max_tokens=2)

        wait_until(lambda: simulated.requests_of(made["id"]) == 5, 40, "five rows of the new key")

    def test_a_crashed_engine_is_a_failure_with_its_last_lines_and_is_started_again(
        self, simulated, client, name
    ):
        (replica,) = replicas(simulated, name)
        simulated.kill_replica(replica)

        wait_until(lambda: "replica.failed" in kinds(simulated, name), 30, "the failure")
        simulated.wait_for(name, "ready", 60)
        wait_until(lambda: answers(client, name), 10, "an answer")


class TestManyAtOnce:
    def test_ten_orders_at_once_get_ten_names_and_all_serve(self, simulated):
        names: list[str] = []

        def deploy() -> None:
            names.append(simulated.deploy(SMOL)["name"])

        threads = [threading.Thread(target=deploy) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(set(names)) == 10
        for name in names:
            simulated.wait_for(name, "ready", 120)
        for name in names:
            simulated.api("DELETE", f"deployments/{name}/")
        for name in names:
            wait_until(lambda name=name: gone(simulated, name), 90, f"{name} to be gone")


class TestFailing:
    def test_a_replica_that_exits_at_once_ends_as_failed_with_its_story(self, simulated):
        engine = {"kind": "simulator", "simulator": {"fail": "exit_at_start"}}
        simulated.deploy(SMOL, name="broken", engine=engine)

        found = simulated.wait_for("broken", "failed", 60)

        (replica,) = replicas(simulated, "broken")
        assert found["reason"]
        assert replica["exit_code"] == 1
        assert replica["log_tail"]
        assert "replica.backoff" in kinds(simulated, "broken")
        remove(simulated, "broken")


def replicas(instance: Hearth, name: str) -> list[dict]:
    return instance.api("GET", f"deployments/{name}/replicas/").json()["results"]


def replica_refs(instance: Hearth, name: str) -> list[str]:
    return [replica["runtime_ref"] for replica in replicas(instance, name)]


def kinds(instance: Hearth, name: str) -> list[str]:
    rows = instance.api("GET", f"deployments/{name}/events/").json()["results"]
    return [row["kind"] for row in rows]


def answers(client: httpx.Client, name: str) -> bool:
    try:
        return stream(client, name, "hello", max_tokens=2).is_complete
    except (httpx.HTTPError, AssertionError):
        return False
