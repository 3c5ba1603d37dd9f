"""Calls of the models that Hearth serves, through the gateway, as any client would.

So every batch that is embedded, every passage that is reranked and every answer stands in the usage
of its deployment, on the internal key of the knowledge base's owner or of who asked. What the
gateway says is told apart by who can mend it: `ServedAway` (later), `ServedRefused` (a person).
"""

import base64
import json
import math
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import httpx
from django.conf import settings

from apps.lib.addresses import dialled
from apps.lib.loops import per_loop
from apps.lib.problems import Problem

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0
"""A deployment may have to wake first."""
QUERY_SECONDS = 30.0
_PROBE = "7"
_LATER = frozenset((408, 425, 429, 500, 502, 503, 504))


class ServedAway(Exception):
    """The gateway or the deployment cannot answer now; try again."""


class ServedRefused(Exception):
    """The deployment will never answer this; `status` is the gateway's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def away(error: ServedAway) -> Problem:
    """Return what a caller is told while a deployment does not answer."""
    return Problem(503, "deployment_away", str(error), extra={"retry_after_seconds": 5})


def refused(error: ServedRefused) -> Problem:
    """Return what a caller is told of a request that a deployment refused."""
    return Problem(422, "deployment_refused", str(error))


def embed(
    deployment: str, texts: Sequence[str], *, key: str, parent: str = "", seconds: float
) -> tuple[list[array[float]], int]:
    """Return the vector of each text and how many tokens they had together.

    Longer texts than the model reads are cut by the engine. Raises ServedAway, ServedRefused.
    """
    body = {
        "model": deployment,
        "input": list(texts),
        "encoding_format": "base64",
        "truncate_prompt_tokens": -1,
    }
    answer = _post("/v1/embeddings", body, key=key, parent=parent, seconds=seconds)
    rows = sorted(answer["data"], key=lambda row: int(row["index"]))
    vectors = [_vector(row["embedding"], deployment) for row in rows]
    if len(vectors) != len(texts):
        raise ServedAway(f"{deployment} sent {len(vectors)} vectors for {len(texts)} texts.")
    return vectors, int(answer.get("usage", {}).get("prompt_tokens", 0))


def token_ids(
    deployment: str, messages: Sequence[Mapping[str, str]], *, key: str, ask: bool
) -> list[int]:
    """Return the prompt that the engine makes of `messages`; `ask` adds the start of an answer."""
    body = {
        "model": deployment,
        "messages": list(messages),
        "add_generation_prompt": ask,
    }
    answer = _post("/tokenize", body, key=key, seconds=QUERY_SECONDS)
    return [int(token) for token in answer["tokens"]]


def token_counts(deployment: str, texts: Sequence[str], *, key: str) -> list[int] | None:
    """Return how many tokens the engine reads in each text, in one call for all of them.

    The texts go joined by the tokenizer's own end mark, a special token, at which every tokenizer
    of the Hugging Face kind cuts before it does anything else. None when the engine has no such
    mark, or a text holds it.
    """
    probe = _tokenized(deployment, _PROBE, key)
    marks, numbers = probe.get("token_strs") or [], probe["tokens"]
    if len(numbers) < 2 or len(marks) != len(numbers) or _PROBE in marks[-1]:
        return None
    mark, number, around = marks[-1], numbers[-1], len(numbers) - 1
    if any(mark in text for text in texts):
        return None
    tokens = _tokenized(deployment, mark.join(texts), key)["tokens"]
    before = around - 1  # what stands in front of every text, as [CLS]
    tokens = tokens[before:-1] if tokens[:before] == numbers[:before] else tokens
    counts, run = [], 0
    for token in tokens:
        if token == number:
            counts.append(run + around)
            run = 0
        else:
            run += 1
    counts.append(run + around)
    return counts if len(counts) == len(texts) else None


def rerank(
    deployment: str, question: str, texts: Sequence[str], *, key: str, parent: str
) -> list[float]:
    """Return the relevance of each text to `question`. Raises ServedAway, ServedRefused."""
    body = {
        "model": deployment,
        "query": question,
        "documents": list(texts),
        "truncate_prompt_tokens": -1,
    }
    answer = _post("/v1/rerank", body, key=key, parent=parent, seconds=QUERY_SECONDS)
    scores = {int(row["index"]): float(row["relevance_score"]) for row in answer["results"]}
    return [scores.get(at, 0.0) for at in range(len(texts))]


async def chat(body: Mapping[str, Any], *, key: str, parent: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of a streamed answer; whoever stops reading closes the call.

    The first value is `{"headers": …}`. Raises ServedAway, ServedRefused before the first chunk.
    """
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    answer = await open_chat(asked, key=key, parent=parent)
    try:
        yield {"headers": dict(answer.headers)}
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line[6:])
    except httpx.HTTPError as error:
        raise ServedAway(f"the stream broke: {error or type(error).__name__}.") from error
    finally:
        await answer.aclose()


async def open_chat(body: Mapping[str, Any], *, key: str, parent: str) -> httpx.Response:
    """Return the open answer to a chat, whatever its form; the caller closes it.

    Raises ServedAway, ServedRefused.
    """
    client = _async_client()
    request = client.build_request(**_chat_request(body, key, parent))
    try:
        answer = await client.send(request, stream=True)
    except httpx.HTTPError as error:
        raise ServedAway(_unreached(error)) from error
    if answer.status_code != 200:
        await answer.aread()
        await answer.aclose()
        _check(answer, str(body.get("model")))
    return answer


def chat_now(body: Mapping[str, Any], *, key: str, parent: str) -> Iterator[dict[str, Any]]:
    """Yield the same as `chat`, for synchronous callers."""
    limit = httpx.Timeout(300.0, connect=CONNECT_SECONDS)
    try:
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with _client().stream(**_chat_request(asked, key, parent), timeout=limit) as answer:
            if answer.status_code != 200:
                answer.read()
                _check(answer, str(body.get("model")))
            yield {"headers": dict(answer.headers)}
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line[6:])
    except httpx.HTTPError as error:
        raise ServedAway(_unreached(error)) from error


def _chat_request(body: Mapping[str, Any], key: str, parent: str) -> dict[str, Any]:
    return {
        "method": "POST",
        "url": f"http://{address()}/v1/chat/completions",
        "json": dict(body),
        "headers": _headers(key, parent),
    }


def address() -> str:
    """Return where to dial the gateway."""
    return dialled(settings.GATEWAY_ADDR)


def _tokenized(deployment: str, text: str, key: str) -> dict[str, Any]:
    body = {"model": deployment, "prompt": text, "return_token_strs": True}
    return _post("/tokenize", body, key=key, seconds=QUERY_SECONDS)


def _post(
    path: str, body: Mapping[str, Any], *, key: str, seconds: float, parent: str = ""
) -> dict[str, Any]:
    try:
        answer = _client().post(
            f"http://{address()}{path}",
            json=body,
            headers=_headers(key, parent),
            timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
        )
    except httpx.HTTPError as error:
        raise ServedAway(_unreached(error)) from error
    _check(answer, str(body.get("model")))
    found: dict[str, Any] = answer.json()
    return found


def _check(answer: httpx.Response, deployment: str) -> None:
    if answer.status_code == 200:
        return
    try:
        told = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        told = f"status {answer.status_code}"
    message = f"{deployment}: {told}"[:400]
    if answer.status_code in _LATER:
        raise ServedAway(message)
    raise ServedRefused(answer.status_code, message)


def _headers(key: str, parent: str) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
    return {**headers, "x-request-id": parent} if parent else headers


def _unreached(error: httpx.HTTPError) -> str:
    return f"the gateway does not answer at {address()}: {error or type(error).__name__}."


def _vector(given: object, deployment: str) -> array[float]:
    vector = (
        array("f", base64.b64decode(given))
        if isinstance(given, str)
        else array("f", given if isinstance(given, list) else [])
    )
    length = math.fsum(value * value for value in vector)
    if not math.isfinite(length) or length == 0.0:
        raise ServedRefused(502, f"{deployment} sent a vector that is no direction (NaN or zero).")
    return vector


@cache
def _client() -> httpx.Client:
    return httpx.Client(trust_env=False, limits=httpx.Limits(max_connections=32))


@per_loop
def _async_client() -> httpx.AsyncClient:
    timeout = httpx.Timeout(300.0, connect=CONNECT_SECONDS)
    return httpx.AsyncClient(
        timeout=timeout, limits=httpx.Limits(max_connections=256), trust_env=False
    )
