"""The sleep calls of a server that speaks vLLM's development API, over its Unix socket alone.

They need `VLLM_SERVER_DEV_MODE=1`, which opens calls that run code (`/collective_rpc`): only the
agent dials the socket for them, the relay and the gateway pass inference paths only.
Source: vLLM docs, features/sleep_mode; usage/security.md.
"""

import httpx

from agents.engines.vllm_api import PROBE_ID
from agents.wire import ReplicaOrder, Task

ASK_SECONDS = 5.0
SLEEP_SECONDS = 60.0
"""Moving the weights of a large model to host memory takes seconds, not minutes."""
WEIGHTS_LOST_LEVEL = 2
_PROMPT = "One, two, three,"


class EngineRefused(Exception):
    """The engine answered a sleep call with an error, or not at all."""


async def is_asleep(client: httpx.AsyncClient) -> bool:
    """Return whether the engine says that it sleeps; False where it knows no such call."""
    try:
        reply = await client.get("/is_sleeping", timeout=ASK_SECONDS)
        return reply.status_code == httpx.codes.OK and reply.json().get("is_sleeping") is True
    except (httpx.TransportError, ValueError):
        return False


async def sleep(client: httpx.AsyncClient, level: int) -> None:
    """Put the engine to sleep; what is in flight ends with what it has. Raises EngineRefused."""
    await _post(client, f"/sleep?level={level}&mode=abort", SLEEP_SECONDS)


async def wake(client: httpx.AsyncClient, level: int, timeout_seconds: float) -> None:
    """Wake the engine from `level`. Raises EngineRefused.

    After level 2 the weights are read again before there is a KV cache to write into, and nothing
    of the old prefix cache may be believed.
    """
    if level < WEIGHTS_LOST_LEVEL:
        await _post(client, "/wake_up", timeout_seconds)
        return
    await _post(client, "/wake_up?tags=weights", timeout_seconds)
    await _post(client, "/collective_rpc", timeout_seconds, {"method": "reload_weights"})
    await _post(client, "/wake_up?tags=kv_cache", timeout_seconds)
    await _post(client, "/reset_prefix_cache", timeout_seconds)


async def first_token(client: httpx.AsyncClient, order: ReplicaOrder) -> str:
    """Return the one token that the model gives to a fixed prompt at temperature 0.

    Empty where the model does not generate, or refuses completions.
    """
    if order.spec.task is not Task.CHAT:
        return ""
    body = {
        "model": order.spec.served_names[0],
        "prompt": _PROMPT,
        "max_tokens": 1,
        "temperature": 0,
    }
    headers = {"x-request-id": PROBE_ID}
    try:
        reply = await client.post("/v1/completions", json=body, headers=headers)
        return str(reply.json()["choices"][0]["text"]) if reply.is_success else ""
    except (httpx.TransportError, ValueError, KeyError, IndexError):
        return ""


async def in_flight(client: httpx.AsyncClient) -> int:
    """Return the requests that the engine runs or holds back, by its own metrics."""
    try:
        reply = await client.get("/metrics", timeout=ASK_SECONDS)
    except httpx.TransportError:
        return 0
    counted = 0.0
    for line in reply.text.splitlines():
        if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting{")):
            counted += float(line.rpartition(" ")[2])
    return int(counted)


async def _post(
    client: httpx.AsyncClient, path: str, timeout_seconds: float, body: object = None
) -> None:
    what = path.partition("?")[0]
    try:
        reply = await client.post(path, json=body, timeout=timeout_seconds)
    except httpx.TransportError as fault:
        raise EngineRefused(f"{what} did not answer: {type(fault).__name__}") from fault
    if not reply.is_success:
        raise EngineRefused(f"{what} answered {reply.status_code}: {reply.text[:200]}")
