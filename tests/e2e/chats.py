"""Chats through the gateway, as an application makes them."""

import json
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx

QUESTION = "What is the capital of France? Answer in one sentence."
LONG_PROMPT = "The quick brown fox jumps over the lazy dog near the river bank. " * 40 + QUESTION
"""Some 600 tokens: more than one block of the CPU engine's prefix cache."""


@dataclass
class Answer:
    """A streamed answer, taken apart."""

    text: str
    usage: dict[str, Any]
    finish_reason: str | None
    headers: httpx.Headers
    is_complete: bool
    """A finish reason came, no error, and the closing `[DONE]`."""


def stream(client: httpx.Client, model: str, prompt: str, **options: Any) -> Answer:
    """Stream one chat with usage in the last chunk."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": 24,
        **options,
    }
    answer = Answer("", {}, None, httpx.Headers(), is_complete=False)
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        answer.headers = response.headers
        for line in response.iter_lines():
            if line.startswith("data: "):
                _take(answer, line.removeprefix("data: "))
    return answer


def _take(answer: Answer, data: str) -> None:
    if data == "[DONE]":
        answer.is_complete = answer.finish_reason is not None
        return
    chunk = json.loads(data)
    assert "error" not in chunk, chunk
    answer.usage = chunk.get("usage") or answer.usage
    for choice in chunk["choices"]:
        answer.text += choice["delta"].get("content") or ""
        answer.finish_reason = choice["finish_reason"] or answer.finish_reason


@dataclass
class Traffic:
    """Streams one chat after the other in a thread until told to end; keeps what went wrong."""

    client: httpx.Client
    model: str
    completed: int = 0
    faults: list[str] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                answer = stream(self.client, self.model, QUESTION, max_tokens=8)
            except (httpx.HTTPError, AssertionError) as error:
                self.faults.append(repr(error))
                continue
            if answer.is_complete:
                self.completed += 1
            else:
                self.faults.append("a stream ended without a finish reason")
