"""Scale to zero and back with the real vLLM: a chat waits with comments, then streams."""

import httpx
import pytest

from tests.e2e.chats import QUESTION
from tests.running import Hearth, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

READY_SECONDS = 420.0
NAME = "napper"


def test_a_chat_for_a_model_at_zero_waits_with_comments_and_is_answered(served: Hearth):
    zero = {"min_replicas": 0, "max_replicas": 1, "scale_to_zero_after_seconds": 10}
    served.deploy("smollm2-135m-instruct", name=NAME, scaling=zero)
    served.wait_for(NAME, "ready", READY_SECONDS)
    served.wait_for(NAME, "asleep", 90)
    body = {"model": NAME, "stream": True, "max_tokens": 24, "temperature": 0}
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
    rows = served.api("GET", f"deployments/{NAME}/decisions/").json()["results"]
    reasons = [row["reason"] for row in rows if row["kind"] == "scaling"]
    assert any("a request waits and nothing serves" in reason for reason in reasons)
    served.api("DELETE", f"deployments/{NAME}/")
    wait_until(
        lambda: served.api("GET", f"deployments/{NAME}/").status_code == 404, 90, "it to be gone"
    )
