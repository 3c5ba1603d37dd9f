"""Embeddings and scores: `/v1/embeddings`, `/v1/score`, `/v1/rerank`, as vLLM's pooling runner.

It computes no model: a text becomes the hashed counts of its words, L2-normalised, so texts that
share words are near each other and retrieval can be tried. Time passes in the engine's queue as
for any prompt. Called by `api`.
"""

import base64
import json
import math
import re
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Sequence

from agents.simulator import asks, tokens
from agents.simulator.asks import Body
from agents.simulator.errors import ApiError, engine_died
from agents.simulator.faults import FaultKind
from agents.simulator.http1 import Exchange
from agents.simulator.replica import Replica
from agents.simulator.runs import Outcome, Run

DIMENSIONS = 384
_WORD = re.compile(r"\w+")

type Vector = list[float]


def vector_of(text: str) -> Vector:
    """Return the embedding of `text`: DIMENSIONS floats of length 1."""
    vector = [0.0] * DIMENSIONS
    for word in _WORD.findall(text.lower()) or [text]:
        mark = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        vector[mark % DIMENSIONS] += 1.0 if mark & 0x8000_0000 else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


def similarity(one: Vector, other: Vector) -> float:
    """Return the cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def embeddings(replica: Replica, exchange: Exchange, body: Body) -> None:
    """Answer `/v1/embeddings`."""
    if body.get("dimensions") is not None:
        raise ApiError(400, "the model has a fixed number of dimensions", param="dimensions")
    form = body.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise ApiError(400, "encoding_format must be float or base64", param="encoding_format")
    texts = _embedding_inputs(body)

    def answer() -> dict[str, object]:
        vectors = map(vector_of, texts)
        data = [_embedding(at, vector, form) for at, vector in enumerate(vectors)]
        return {"id": f"embd-{uuid.uuid4().hex}", "object": "list", "data": data}

    _run(replica, exchange, body, texts, answer)


def score(replica: Replica, exchange: Exchange, body: Body) -> None:
    """Answer `/v1/score`: one text or as many as the others, against a list."""
    left = _texts(body.get("queries", body.get("text_1")), "queries")
    right = _texts(body.get("documents", body.get("text_2")), "documents")
    if len(left) not in (1, len(right)):
        raise ApiError(400, "queries must be one text or as many as documents", param="queries")
    pairs = list(zip(left * len(right) if len(left) == 1 else left, right, strict=True))

    def answer() -> dict[str, object]:
        scores = [similarity(vector_of(a), vector_of(b)) for a, b in pairs]
        data = [{"index": at, "object": "score", "score": it} for at, it in enumerate(scores)]
        return {"id": f"score-{uuid.uuid4().hex}", "object": "list", "data": data}

    _run(replica, exchange, body, [a + b for a, b in pairs], answer)


def rerank(replica: Replica, exchange: Exchange, body: Body) -> None:
    """Answer `/v1/rerank`: documents by falling relevance to the query."""
    query = body.get("query")
    if not isinstance(query, str):
        raise ApiError(400, "query must be text", param="query")
    documents = _texts(body.get("documents"), "documents")
    top_n = body.get("top_n") or len(documents)
    if type(top_n) is not int or top_n < 0:
        raise ApiError(400, "top_n must be a whole number", param="top_n")

    def answer() -> dict[str, object]:
        wanted = vector_of(query)
        scores = [similarity(wanted, vector_of(document)) for document in documents]
        order = sorted(range(len(documents)), key=lambda at: (-scores[at], at))[:top_n]
        results = [
            {"index": at, "document": {"text": documents[at]}, "relevance_score": scores[at]}
            for at in order
        ]
        return {"id": f"rerank-{uuid.uuid4().hex}", "results": results}

    _run(replica, exchange, body, [query + document for document in documents], answer)


class _Pooling:
    """Listens until every text of one request went through the engine."""

    def __init__(self, exchange: Exchange, answer: Callable[[], bytes]) -> None:
        self._exchange = exchange
        self._answer = answer
        self.open_runs: set[Run] = set()

    def on_token(self, run: Run) -> None:
        self.open_runs.discard(run)
        if not self.open_runs:
            self._exchange.send(200, self._answer())

    def on_death(self, run: Run) -> None:
        if self.open_runs:
            self.open_runs.clear()
            error = engine_died()
            self._exchange.send(error.status, error.body())


def _run(
    replica: Replica,
    exchange: Exchange,
    body: Body,
    texts: Sequence[str],
    answer: Callable[[], dict[str, object]],
) -> None:
    """Send `texts` through the engine's queue, then send `answer` with model and usage."""
    model = replica.check_model(asks.model_of(body))
    counts = [max(tokens.count(text.encode("utf-8", "surrogatepass")), 1) for text in texts]
    if max(counts) > replica.options.max_model_len:
        longest = f"{max(counts)} tokens; the model's limit is {replica.options.max_model_len}"
        raise ApiError(400, f"a text has {longest}", param="input")
    fault = replica.admit(exchange)
    if fault.kind is not FaultKind.NONE:
        raise ApiError(500, f"a simulated fault: {fault.kind}")
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}

    def whole() -> bytes:
        head = {"model": model, "created": int(time.time())}
        return json.dumps({**answer(), **head, "usage": usage}).encode()

    listener = _Pooling(exchange, whole)
    runs = [Run(prompt_tokens=n, output_tokens=1, ending=Outcome.STOP) for n in counts]
    listener.open_runs.update(runs)

    def leave() -> None:
        for run in runs:
            replica.engine.abort(run)

    exchange.on_gone = leave
    for run in runs:
        replica.engine.submit(run, listener)


def _embedding_inputs(body: Body) -> list[str]:
    given = body.get("input")
    if isinstance(given, list) and given and not all(isinstance(item, str) for item in given):
        prompts = asks.completion_prompts({"prompt": given})
        return [prompt.replace(b"\0", b"").decode("utf-8", "replace") for prompt in prompts]
    return _texts(given, "input")


def _texts(value: object, name: str) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise ApiError(400, f"{name} must be text or a list of texts, not empty", param=name)
    if not all(isinstance(item, str) for item in items):
        raise ApiError(400, f"{name} must hold texts only", param=name)
    return items


def _embedding(index: int, vector: Vector, form: str) -> dict[str, object]:
    value: object = vector
    if form == "base64":
        value = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return {"index": index, "object": "embedding", "embedding": value}
