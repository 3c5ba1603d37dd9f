"""Scale to zero and back with the real vLLM: a chat waits with comments, then streams."""

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.chats import QUESTION
from tests.running import Hearth

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

READY_SECONDS = 420.0
NAME = "smollm2-135m-instruct"


@pytest.fixture
def asleep(served: Hearth) -> Iterator[str]:
    """The chat model at zero replicas, by its policy; one that already serves is taken."""
    if served.api("GET", f"deployments/{NAME}/").status_code == 404:
        served.deploy(NAME)
    served.wait_for(NAME, "ready", READY_SECONDS)
    zero = {"min_replicas": 0, "max_replicas": 1, "scale_to_zero_after_seconds": 10}
    answer = served.api("PATCH", f"deployments/{NAME}/", json={"scaling": zero})
    assert answer.status_code == 200, answer.text
    served.wait_for(NAME, "asleep", 90)
    yield NAME
    served.api("PATCH", f"deployments/{NAME}/", json={"scaling": {"min_replicas": 1}})


def test_a_chat_for_a_model_at_zero_waits_with_comments_and_is_answered(
    served: Hearth, asleep: str
):
    body = {"model": asleep, "stream": True, "max_tokens": 24, "temperature": 0}
    body["messages"] = [{"role": "user", "content": QUESTION}]

    with (
        served.client(served.key()) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=body, timeout=httpx.Timeout(READY_SECONDS)
        ) as answer,
    ):
        lines = list(answer.iter_lines())

    assert answer.status_code == 200
    first_data = next(n for n, line in enumerate(lines) if line.startswith("data: "))
    assert any(line.startswith(": starting") for line in lines[:first_data])
    assert any("Paris" in line for line in lines)
    assert "data: [DONE]" in lines
    newest = served.api("GET", f"deployments/{asleep}/starts/").json()["results"][0]
    assert (newest["rung"], newest["failure"]) == ("cached", "")
    rows = served.api("GET", f"deployments/{asleep}/decisions/").json()["results"]
    reasons = [row["reason"] for row in rows if row["kind"] == "scaling"]
    assert any("a request waits and nothing serves" in reason for reason in reasons)
