"""Three documents, found and answered from, with both real models, over REST and the gateway."""

import json
from typing import Any

import httpx
import pytest

from tests.e2e.chats import stream
from tests.running import Hearth, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

READY_SECONDS = 420.0
BASE = "knowledge-bases/house/"
CHAT, EMBEDDER = "reader", "vectors"
NAME = f"{CHAT}+house"
QUESTION = "How many days of leave does every employee get in a year?"
FILES = {
    "leave.md": "# Leave\n\nEvery employee gets thirty days of leave in a year.\n",
    "travel.html": "<h1>Travel</h1><p>Trains are paid for; taxis after ten only.</p>",
    "laptops.txt": "A laptop that was stolen is reported to the security team within an hour.\n",
}


@pytest.fixture(scope="module")
def base(served: Hearth) -> dict[str, Any]:
    """A knowledge base with three documents, whose vectors the real MiniLM made."""
    served.deploy("all-minilm-l6-v2", name=EMBEDDER)
    served.deploy("smollm2-135m-instruct", name=CHAT)
    order = {"name": "House", "embedding_deployment": EMBEDDER}
    made = served.api("POST", "knowledge-bases/", json=order)
    assert made.status_code == 201, made.text
    for name, text in FILES.items():
        files = {"file": (name, text.encode())}
        assert served.api("POST", f"{BASE}documents/", files=files).status_code == 201

    def found() -> dict[str, Any] | None:
        row: dict[str, Any] = served.api("GET", BASE).json()
        assert not row["documents_failed"], served.api("GET", f"{BASE}documents/").text
        return row if row["documents_ready"] == len(FILES) else None

    # They wait for the embedder, which is still starting.
    ready = wait_until(found, READY_SECONDS, "the documents")
    assert ready is not None
    return ready


@pytest.fixture(scope="module")
def reader(served: Hearth, base: dict[str, Any]) -> str:
    """The chat deployment, once it serves."""
    served.wait_for(CHAT, "ready", READY_SECONDS)
    return CHAT


def ask(served: Hearth, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a streamed answer as (name, data)."""
    body = {"question": QUESTION, "deployment": CHAT, "stream": True, "max_tokens": 48}
    answer = served.api("POST", f"{BASE}ask/", json={**body, **more}, timeout=120)
    assert answer.status_code == 200, answer.text
    parts = [part.split("\n", 1) for part in answer.text.split("\n\n") if part]
    return [(name[7:], json.loads(data[6:])) for name, data in parts]


def prompt_tokens(served: Hearth, deployment: str) -> int:
    rows = served.api("GET", "usage/?group_by=deployment").json()["results"]
    return sum(row["prompt_tokens"] for row in rows if row["group"] == deployment)


def search(served: Hearth) -> httpx.Response:
    return served.api("POST", f"{BASE}search/", json={"query": QUESTION})


class TestStory:
    def test_the_embedders_batches_stand_in_the_usage_of_its_deployment(self, served, base):
        assert base["chunks"] == len(FILES)
        wait_until(lambda: prompt_tokens(served, EMBEDDER) > 40, 20, "tokens of the documents")
        before = prompt_tokens(served, EMBEDDER)

        assert search(served).status_code == 200

        wait_until(lambda: prompt_tokens(served, EMBEDDER) > before, 20, "tokens of the question")

    def test_a_search_finds_the_passage_by_meaning_and_by_words(self, served, base):
        found = search(served).json()

        best = found["hits"][0]
        assert best["document"] == "leave.md"
        assert (best["dense"]["rank"], best["lexical"]["rank"]) == (1, 1)
        assert best["dense"]["score"] > 0.5
        assert found["notices"] == []

    def test_an_answer_streams_with_the_passages_that_it_was_given(self, served, reader):
        events = ask(served)

        names = [name for name, _ in events]
        assert (names[0], names[-1]) == ("trace", "done")
        assert names.count("delta") > 3
        done = events[-1][1]
        text = "".join(data["text"] for name, data in events if name == "delta")
        assert done["answer"] == text
        assert done["citations"][0]["document"] == "leave.md"
        assert done["usage"]["prompt_tokens"] > 100
        assert done["replica"]

    def test_the_next_turn_reuses_what_the_engine_has_computed(self, served, reader):
        first = ask(served)[-1][1]

        second = ask(served, question="And trains?", conversation=first["conversation"])[-1][1]

        assert second["prefix"]["predicted_tokens"] > 0
        assert second["usage"]["cached_tokens"] >= 0.9 * second["prefix"]["predicted_tokens"]

    def test_any_openai_client_gets_retrieval_by_the_model_name(self, served, reader):
        made = served.api("POST", f"{BASE}aliases/", json={"deployment": CHAT})
        with served.client(served.key(models=[NAME, CHAT])) as client:
            listed = [row["id"] for row in client.get("/v1/models").json()["data"]]
            body = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}]}
            plain = client.post("/v1/chat/completions", json={**body, "max_tokens": 16}).json()
            streamed = stream(client, NAME, QUESTION, max_tokens=16)
            bare = client.post(
                "/v1/chat/completions", json={**body, "model": CHAT, "max_tokens": 1}
            ).json()

        assert made.status_code == 201, made.text
        assert sorted(listed) == sorted([CHAT, NAME])
        assert plain["citations"][0]["document"] == "leave.md"
        assert streamed.is_complete
        assert plain["usage"]["prompt_tokens"] > bare["usage"]["prompt_tokens"] + 60

    def test_without_milvus_nothing_is_found_until_it_is_back(self, served, base):
        served.child("apps.rag.vectord").kill()

        away = search(served)
        back = wait_until(lambda: search(served).status_code == 200, 60, "Milvus to be back")

        assert (away.status_code, away.json()["code"]) == (503, "vectors_away")
        assert back
        assert search(served).json()["hits"][0]["document"] == "leave.md"

    def test_all_of_it_can_be_taken_away(self, served, base):
        assert served.api("DELETE", BASE).status_code == 204
        for name in (CHAT, EMBEDDER):
            served.api("DELETE", f"deployments/{name}/")

        assert search(served).status_code == 404
