"""From the catalog to a streamed answer: the real vLLM as a process, over REST alone."""

import time

import httpx
import pytest

from tests.e2e.chats import LONG_PROMPT, QUESTION, Traffic, stream
from tests.running import Hearth, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

READY_SECONDS = 420.0


@pytest.fixture(scope="module")
def deployment(served: Hearth) -> dict:
    """SmolLM2, deployed by nothing but its catalog entry."""
    order = served.deploy("smollm2-135m-instruct")
    assert order["name"] == "smollm2-135m-instruct"
    return served.wait_for(order["name"], "ready", READY_SECONDS)


@pytest.fixture(scope="module")
def client(served: Hearth) -> httpx.Client:
    return served.client(served.key())


def used(served: Hearth, name: str) -> dict:
    """Return the ledger's row of the deployments called `name`; {} before their first request."""
    rows = served.api("GET", "usage/?group_by=deployment").json()["results"]
    return next((row for row in rows if row["group"] == name), {})


@pytest.fixture(scope="module")
def used_before(served: Hearth) -> int:
    """Requests of the deployments that other stories called by the same name."""
    return used(served, "smollm2-135m-instruct").get("requests", 0)


@pytest.fixture(scope="module", autouse=True)
def answered(client: httpx.Client, used_before: int) -> list[httpx.Response]:
    """Every answer that `client` was given."""
    answers: list[httpx.Response] = []
    client.event_hooks = {"response": [answers.append]}
    return answers


class TestStory:
    def test_the_real_engine_serves(self, deployment):
        assert deployment["simulated"] is False
        assert (deployment["ready_replicas"], deployment["wanted_replicas"]) == (1, 1)
        assert deployment["revision"] == 1

    def test_a_chat_streams_with_usage_in_the_last_chunk(self, client, deployment):
        answer = stream(client, deployment["name"], QUESTION)

        assert "Paris" in answer.text
        assert answer.is_complete
        assert answer.usage["completion_tokens"] > 0
        assert answer.headers["x-hearth-replica"]

    def test_a_repeated_prompt_is_served_from_the_prefix_cache(self, client, deployment):
        first = stream(client, deployment["name"], LONG_PROMPT)
        second = stream(client, deployment["name"], LONG_PROMPT)

        details = second.usage["prompt_tokens_details"]
        assert first.usage["prompt_tokens"] >= 500
        assert details["cached_tokens"] >= 500
        assert details["cached_tokens"] > (first.usage["prompt_tokens_details"] or {}).get(
            "cached_tokens", 0
        )

    def test_the_ledger_has_one_row_a_request_with_its_cost(
        self, served, client, answered, deployment, used_before
    ):
        name = deployment["name"]

        stream(client, name, QUESTION)
        wanted = used_before + len(answered)
        wait_until(lambda: used(served, name).get("requests", 0) == wanted, 10, "usage")
        row = used(served, name)
        assert row["output_tokens"] > 0
        assert row["cached_tokens"] >= 500

    def test_the_start_tells_how_long_each_stage_took(self, served, deployment):
        replicas = served.api("GET", f"deployments/{deployment['name']}/replicas/").json()

        stages = replicas["results"][0]["stage_seconds"]
        assert {"import", "load"} <= stages.keys()
        assert 5 < sum(stages.values()) < READY_SECONDS

    def test_its_log_can_be_read(self, served, deployment):
        answer = served.api("GET", f"deployments/{deployment['name']}/logs/?lines=50")

        assert answer.status_code == 200, answer.text
        assert any(
            "vLLM" in line or "Uvicorn" in line or "INFO" in line for line in answer.json()["lines"]
        )

    def test_streams_held_open_show_within_a_second_and_a_half(self, served, client, deployment):
        name = deployment["name"]
        body = {
            "model": name,
            "messages": [{"role": "user", "content": "Tell a long story."}],
            "stream": True,
            "max_tokens": 400,
            "ignore_eos": True,
        }
        with (
            client.stream("POST", "/v1/chat/completions", json=body) as first,
            client.stream("POST", "/v1/chat/completions", json=body) as second,
        ):
            assert first.status_code == second.status_code == 200
            begun = time.monotonic()
            wait_until(
                lambda: served.deployment(name)["live"]["in_flight"] == 2, 1.5, "2 in flight"
            )
            assert time.monotonic() - begun < 1.5
        wait_until(lambda: served.deployment(name)["live"]["in_flight"] == 0, 5, "0 in flight")

    def test_the_second_kind_of_model_embeds(self, served, client):
        order = served.deploy("all-minilm-l6-v2")
        found = served.wait_for(order["name"], "ready", READY_SECONDS)

        response = client.post(
            "/v1/embeddings", json={"model": order["name"], "input": ["a fox", "a dog"]}
        )

        assert found["simulated"] is False
        assert [len(row["embedding"]) for row in response.json()["data"]] == [384, 384]
        served.api("DELETE", f"deployments/{order['name']}/")
        wait_until(
            lambda: served.api("GET", f"deployments/{order['name']}/").status_code == 404,
            60,
            "the embedder to be gone",
        )


class TestRollout:
    """With the real engine: change the context, watch the rolling update, roll back."""

    def test_an_update_and_its_rollback_fail_and_cut_nothing(self, served, client, deployment):
        name = deployment["name"]
        with Traffic(client, name) as traffic:
            wait_until(lambda: traffic.completed > 0, 60, "traffic")
            body = {"engine": {"max_model_len": 1024}}
            changed = served.api("PATCH", f"deployments/{name}/", json=body).json()
            assert changed["rolling"]["candidate"] == 2
            self.watch(served, name, revision=2)
            (now,) = served.api("GET", f"deployments/{name}/replicas/").json()["results"]
            assert now["revision"] == 2
            served.api("POST", f"deployments/{name}/rollback/", json={})
            self.watch(served, name, revision=3)
            done = traffic.completed
            wait_until(lambda: traffic.completed > done, 60, "traffic on the old settings")

        assert traffic.faults == []

    def watch(self, served: Hearth, name: str, revision: int) -> None:
        def is_there() -> bool:
            found = served.deployment(name)
            assert found["ready_replicas"] >= 1
            return found["revision"] == revision and found["phase"] == "ready"

        wait_until(is_there, READY_SECONDS, f"revision {revision}")
