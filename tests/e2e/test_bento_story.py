"""A BentoML service from PyPI: deployed by its catalog entry alone, asked, scaled, seen live."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.running import Hearth, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

READY_SECONDS = 200.0
"""The first time its environment of 190 MB is made; after that 15 s."""
TEXT = "Cats sleep a lot. Dogs bark. Cats and dogs sleep together on the sofa."


@pytest.fixture(scope="module")
def deployment(served: Hearth) -> dict:
    order = served.deploy("bento-summarizer")
    return served.wait_for(order["name"], "ready", READY_SECONDS)


@pytest.fixture(scope="module")
def client(served: Hearth) -> httpx.Client:
    return served.client(served.key())


def summarize(client: httpx.Client, path: str = "/summarize") -> httpx.Response:
    body = {"text": TEXT, "sentences": 1}
    return client.post(f"/apis/bento-summarizer{path}", json=body)


class TestStory:
    def test_one_order_serves_it(self, deployment):
        assert (deployment["ready_replicas"], deployment["task"]) == (1, "http")
        assert deployment["simulated"] is False

    def test_its_own_api_answers_through_the_gateway(self, client, deployment):
        answer = summarize(client)

        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "summary": "Cats and dogs sleep together on the sofa.",
            "sentences": 3,
        }
        assert answer.headers["x-hearth-replica"]

    def test_paths_that_it_does_not_declare_are_not_there(self, client, deployment):
        answer = summarize(client, "/metrics")

        assert answer.status_code == 404
        assert "it has /summarize" in answer.json()["error"]["message"]

    def test_what_it_cannot_tell_is_unknown_and_not_zero(self, served, client, deployment):
        def numbers() -> dict | None:
            summarize(client)
            rows = served.api("GET", "deployments/bento-summarizer/replicas/").json()["results"]
            return rows[0]["live"] if rows[0]["live"]["running"] is not None else None

        live = wait_until(numbers, 20.0, "numbers of the replica")

        assert live["waiting"] is None
        assert live["kv_cache_usage_ratio"] is None

    def test_it_scales_and_both_replicas_answer(self, served, client, deployment):
        served.api(
            "PATCH",
            "deployments/bento-summarizer/",
            json={"scaling": {"min_replicas": 2, "max_replicas": 2}},
        )

        def both() -> bool:
            return served.deployment("bento-summarizer")["ready_replicas"] == 2

        wait_until(both, 120.0, "two ready replicas")

        def answered() -> bool:
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _n: summarize(client), range(32)))
            assert {answer.status_code for answer in answers} == {200}
            return len({answer.headers["x-hearth-replica"] for answer in answers}) == 2

        wait_until(answered, 30.0, "answers of both")
