"""Ask a vLLM server for its first answers: a fixed text, what it writes next, and that read back.

Two completions for a chat model, one request for the others; about 1 s on a CPU. What the server
does not tell (no log-probabilities, a context too short for the text) stays None.
"""

import math
import time
from typing import Any

import httpx

from agents.answers import Answers
from agents.wire import ReplicaOrder, Task

ANSWER_SECONDS = 90.0
"""For one question: a large model may still compile for it."""
WRITTEN_TOKENS = 16
WORDS_CHARACTERS = 80
TEXT = (
    "Water boils at one hundred degrees Celsius at sea level. The Earth turns around the Sun once "
    "a year, and the Moon turns around the Earth about once a month. Paris is the capital of "
    "France, and Berlin is the capital of Germany. Two plus two is four. The days of the week are "
    "Monday, Tuesday, Wednesday, Thursday, Friday,"
)
ALIKE = ("The cat sleeps on the sofa.", "A cat is sleeping on the couch.")
UNLIKE = "Interest rates of the central bank rose by half a percent."


async def first_answers(client: httpx.AsyncClient, order: ReplicaOrder) -> Answers:
    """Return what the server's first answers show. Raises httpx.HTTPError if none comes."""
    began = time.monotonic()
    model, task = order.spec.served_names[0], order.spec.task
    if task is Task.CHAT:
        seen = await _of_text(client, model)
    elif task is Task.EMBED:
        seen = await _of_vectors(client, model)
    else:
        seen = await _of_scores(client, model)
    return Answers(
        perplexity=seen.perplexity,
        written_perplexity=seen.written_perplexity,
        read_perplexity=seen.read_perplexity,
        likeness_ratio=seen.likeness_ratio,
        words=seen.words,
        seconds=round(time.monotonic() - began, 3),
    )


async def _of_text(client: httpx.AsyncClient, model: str) -> Answers:
    asked = {
        "model": model,
        "prompt": TEXT,
        "max_tokens": WRITTEN_TOKENS,
        "temperature": 0,
        "logprobs": 0,
        "prompt_logprobs": 0,
        "return_token_ids": True,
    }
    choice = await _choice(client, asked)
    if choice is None:
        return Answers()
    prompt, written = choice.get("prompt_token_ids"), choice.get("token_ids")
    read = None
    if prompt and written:
        back = asked | {"prompt": [*prompt, *written], "max_tokens": 1}
        again = await _choice(client, back)
        read = _perplexity(_of_prompt(again)[-len(written) :]) if again else None
    return Answers(
        perplexity=_perplexity(_of_prompt(choice)),
        written_perplexity=_perplexity((choice.get("logprobs") or {}).get("token_logprobs") or []),
        read_perplexity=read,
        words=str(choice.get("text", ""))[:WORDS_CHARACTERS],
    )


async def _choice(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any] | None:
    reply = await client.post("/v1/completions", json=body, timeout=ANSWER_SECONDS)
    if reply.status_code != httpx.codes.OK:
        return None
    choices = reply.json().get("choices") or [None]
    return choices[0] if isinstance(choices[0], dict) else None


def _of_prompt(choice: dict[str, Any]) -> list[float | None]:
    """Return the log-probability of each token of the prompt that has one.

    vLLM lists for each token the wanted one first and then likelier ones, by token id.
    """
    rows = choice.get("prompt_logprobs") or []
    return [next(iter(row.values()))["logprob"] for row in rows if row]


def _perplexity(logprobs: list[float | None]) -> float | None:
    """Return exp of the mean; infinite where the engine gives no numbers any more."""
    if not logprobs:
        return None
    known = [value for value in logprobs if value is not None and math.isfinite(value)]
    if len(known) < len(logprobs):
        return math.inf
    return math.exp(min(-sum(known) / len(known), 700.0))


async def _of_vectors(client: httpx.AsyncClient, model: str) -> Answers:
    body = {"model": model, "input": [*ALIKE, UNLIKE]}
    reply = await client.post("/v1/embeddings", json=body, timeout=ANSWER_SECONDS)
    if reply.status_code != httpx.codes.OK:
        return Answers()
    first, second, other = (row["embedding"] for row in reply.json()["data"])
    return Answers(likeness_ratio=_ahead(_cosine(first, second), _cosine(first, other)))


async def _of_scores(client: httpx.AsyncClient, model: str) -> Answers:
    body = {"model": model, "query": ALIKE[0], "documents": [ALIKE[1], UNLIKE]}
    reply = await client.post("/v1/rerank", json=body, timeout=ANSWER_SECONDS)
    if reply.status_code != httpx.codes.OK:
        return Answers()
    scores = {row["index"]: row["relevance_score"] for row in reply.json()["results"]}
    return Answers(likeness_ratio=_ahead(scores[0], scores[1]))


def _ahead(near: float | None, far: float | None) -> float:
    if near is None or far is None or not math.isfinite(near - far):
        return 0.0
    return near - far


def _cosine(one: list[float | None], other: list[float | None]) -> float | None:
    a = [value for value in one if value is not None]
    b = [value for value in other if value is not None]
    if len(a) < len(one) or len(b) < len(other):
        return None
    length = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else None
