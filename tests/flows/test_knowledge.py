"""A knowledge base in front of a deployment, asked through the gateway by its model name."""

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.chats import stream
from tests.running import Hearth, wait_until

pytestmark = pytest.mark.timeout(300)

SMOL = "smollm2-135m-instruct"
BASE = "knowledge-bases/handbook/"
NAME = "guide+handbook"
HANDBOOK = b"""# Holidays

Every person has thirty days of holiday a year.

# Security

A lost laptop is told to the people of security within an hour.
"""


@pytest.fixture(scope="module")
def name(simulated: Hearth) -> Iterator[str]:
    """A knowledge base with one document in front of a deployment that serves."""
    simulated.deploy(SMOL, name="guide")
    made = simulated.api("POST", "knowledge-bases/", json={"name": "Handbook"})
    assert made.status_code == 201, made.text
    files = {"file": ("handbook.md", HANDBOOK)}
    assert simulated.api("POST", f"{BASE}documents/", files=files).status_code == 201
    wait_until(
        lambda: simulated.api("GET", BASE).json()["documents_ready"] == 1, 120, "the handbook"
    )
    simulated.wait_for("guide", "ready", 60)
    attached = simulated.api("POST", f"{BASE}aliases/", json={"deployment": "guide"})
    assert attached.status_code == 201, attached.text
    yield NAME
    simulated.api("DELETE", BASE)
    simulated.api("DELETE", "deployments/guide/")


def chat(client: httpx.Client, model: str) -> httpx.Response:
    messages = [{"role": "user", "content": "How many days of holiday are there?"}]
    body = {"model": model, "messages": messages, "max_tokens": 8}
    return client.post("/v1/chat/completions", json=body, timeout=30)


class TestModelName:
    def test_is_listed_and_answers_with_citations(self, client, name):
        answer = chat(client, name)

        assert name in [row["id"] for row in client.get("/v1/models").json()["data"]]
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == name
        assert answer.json()["citations"][0]["document"] == "handbook.md"
        assert answer.json()["usage"]["prompt_tokens"] > 60

    def test_streams_to_the_end(self, client, name):
        answer = stream(client, name, "Who is told of a lost laptop?", max_tokens=8)

        assert answer.is_complete

    def test_leaves_one_record_a_chat_on_a_key_for_one_request_at_once(self, simulated, name):
        made = simulated.new_key(name="narrow", max_in_flight=1)
        with simulated.client(made["key"]) as narrow:
            chat(narrow, name)
            stream(narrow, name, "holiday days?", max_tokens=2)
            chat(narrow, "guide")

        wait_until(lambda: simulated.requests_of(made["id"]) == 3, 40, "three records of the key")

    def test_alone_is_away_with_the_control_plane(self, simulated, client, name):
        web = simulated.child("uvicorn")
        web.suspend()
        try:
            away, direct = chat(client, name), chat(client, "guide")
        finally:
            web.resume()
        back = wait_until(lambda: chat(client, name).status_code == 200, 30, "its return")

        assert (away.status_code, away.json()["error"]["code"]) == (503, "control_plane_away")
        assert direct.status_code == 200
        assert back

    def test_is_gone_once_it_is_detached(self, simulated, client, name):
        gone = simulated.api("DELETE", f"{BASE}aliases/{name}/")
        answer = chat(client, name)

        assert gone.status_code == 204
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
