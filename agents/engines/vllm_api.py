"""How to ask a server that speaks vLLM's HTTP API: is it well, does it answer, what does it count.

It knows paths and metric names of vLLM 0.32, nothing of how a server was started; an engine that
speaks the same API uses it as it is.
"""

import re
from collections.abc import Iterator

import httpx

from agents.wire import ReplicaOrder, ReplicaSample, Task

PROBE_SECONDS = 60.0
"""For the first token of a large model, which may still compile for it."""
HEALTH_SECONDS = 5.0
METRICS_PATH = "/metrics"
PROBE_ID = "hearth-probe"
"""X-Request-Id of readiness probes: the simulator's faults do not count them."""

_PATHS = {
    Task.CHAT: "/v1/chat/completions",
    Task.EMBED: "/v1/embeddings",
    Task.RERANK: "/v1/rerank",
}
_SERIES = re.compile(r"vllm:(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


async def healthy(client: httpx.AsyncClient) -> bool:
    """Return whether `/health` answers 200; it does also while the engine sleeps."""
    try:
        return (await client.get("/health", timeout=HEALTH_SECONDS)).status_code == 200
    except httpx.TransportError:
        return False


async def probe(client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
    """Return whether the server is healthy and answers one real token, vector or score."""
    return await healthy(client) and await answers(client, order)


async def answers(client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
    """Return whether the server answers one real token, vector or score."""
    model, task = order.spec.served_names[0], order.spec.task
    status = await _post(client, _PATHS[task], _question(model, task))
    if status == httpx.codes.BAD_REQUEST and task is Task.CHAT:
        # A model without a chat template refuses chats and completes all the same.
        body = {"model": model, "prompt": "a", "max_tokens": 1}
        status = await _post(client, "/v1/completions", body)
    return status == httpx.codes.OK


def sample(replica_id: str, at: float, metrics: str) -> ReplicaSample:
    """Return one sample from the text of `/metrics`; what it does not tell stays None."""
    found: dict[str, list[float]] = {}
    for name, _, value in _series(metrics):
        found.setdefault(name, []).append(value)
    running, waiting = found.get("num_requests_running"), found.get("num_requests_waiting")
    usage = found.get("kv_cache_usage_perc")
    return ReplicaSample(
        replica_id=replica_id,
        at=at,
        running=int(sum(running)) if running else None,
        waiting=int(sum(waiting)) if waiting else None,
        kv_cache_usage_ratio=max(usage) if usage else None,
        prompt_tokens_total=_total(found, "prompt_tokens_total"),
        output_tokens_total=_total(found, "generation_tokens_total"),
        prefix_cache_queries_total=_total(found, "prefix_cache_queries_total"),
        prefix_cache_hits_total=_total(found, "prefix_cache_hits_total"),
        requests_total=_total(found, "request_success_total"),
    )


def kv_cache_tokens(metrics: str) -> int | None:
    """Return the capacity of the KV cache in tokens, over all engines of the server."""
    sizes = [
        int(size.group(1))
        for name, label_text, _ in _series(metrics)
        if name == "cache_config_info"
        and (size := re.search(r'kv_cache_size_tokens="(\d+)"', label_text))
    ]
    return sum(sizes) if sizes else None


def _series(metrics: str) -> Iterator[tuple[str, str, float]]:
    """Yield name without prefix, labels as text, and value of each series of vLLM's own."""
    for line in metrics.splitlines():
        if line.startswith("vllm:") and (found := _SERIES.match(line)):
            yield found["name"], found["labels"] or "", float(found["value"])


def _total(found: dict[str, list[float]], name: str) -> float | None:
    return sum(found[name]) if name in found else None


def _question(model: str, task: Task) -> dict[str, object]:
    """Return the smallest request that makes the model compute something."""
    if task is Task.EMBED:
        return {"model": model, "input": "a"}
    if task is Task.RERANK:
        return {"model": model, "query": "a", "documents": ["a"]}
    return {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, object]) -> int:
    """Return the status of the answer, 0 if none came."""
    headers = {"x-request-id": PROBE_ID}
    try:
        reply = await client.post(path, json=body, headers=headers, timeout=PROBE_SECONDS)
    except httpx.TransportError:
        return 0
    return reply.status_code
