"""The playground: a chat with any deployment, streamed same-origin through this process.

The browser never calls the gateway: `stream` does, with an internal key of the signed-in person,
and passes the bytes on. When the browser goes away, the call to the gateway is closed, which stops
the engine. Prompts and answers are not stored or logged.
"""

import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx
from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_POST, require_safe

from apps.dashboard import queries, rows, shell
from apps.dashboard.access import user_of
from apps.lib.addresses import dialled
from apps.lib.loops import per_loop
from apps.lib.problems import CONTENT_TYPE, Problem
from apps.telemetry import live
from apps.traffic.actions import playground_key

MAX_BODY_BYTES = 4 * 1024 * 1024
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 300.0
"""A model may wake, load or think for minutes before its first token."""

_PASSED_ON = ("content-type", "x-request-id", "x-hearth-replica", "x-hearth-route", "retry-after")


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """Show the chat with the deployment `model`, by default the first that is live."""
    numbers = live.numbers()
    found = [rows.row(seen, numbers) for seen in queries.deployments()]
    chats = sorted((row for row in found if row.task == "chat"), key=lambda r: (r.off, r.name))
    wanted = request.GET.get("model", "")
    chosen = next((row for row in chats if row.name == wanted), chats[0] if chats else None)
    context = {"models": chats, "chosen": chosen}
    return shell.page(request, "playground", context, title="Playground", live="playground")


@require_POST
async def stream(request: HttpRequest) -> HttpResponseBase:
    """Pass one chat request to the gateway and its answer back, chunk by chunk."""
    try:
        body = _body(request)
    except Problem as problem:
        return _refusal(problem)
    _, secret = await sync_to_async(playground_key)(user_of(request))
    call = _client().build_request(
        "POST",
        f"http://{dialled(settings.GATEWAY_ADDR)}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {secret}", "Accept-Encoding": "identity"},
    )
    try:
        answer = await _client().send(call, stream=True)
    except httpx.HTTPError as error:
        where = dialled(settings.GATEWAY_ADDR)
        detail = f"The gateway does not answer at {where}: {error or type(error).__name__}."
        return _refusal(Problem(502, "gateway_away", detail))
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    return StreamingHttpResponse(
        _chunks(answer), status=answer.status_code, headers={**headers, "X-Accel-Buffering": "no"}
    )


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the answer's bytes as they come; whoever stops reading closes the call."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        yield _event({"error": {"message": f"The stream broke: {error or type(error).__name__}."}})
    finally:
        await answer.aclose()


def _event(message: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(message)}\n\n".encode()


def _body(request: HttpRequest) -> dict[str, Any]:
    """Return the request for the gateway. Raises Problem 400 or 413 naming the field."""
    if len(request.body) > MAX_BODY_BYTES:
        raise Problem(413, "too_large", f"The chat is larger than {MAX_BODY_BYTES} bytes.")
    try:
        given = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "invalid", f"The body is not JSON: {error}.") from error
    if not isinstance(given, dict) or not isinstance(given.get("model"), str):
        raise Problem(400, "invalid", "model: name a deployment.")
    if not isinstance(given.get("messages"), list) or not given["messages"]:
        raise Problem(400, "invalid", "messages: give at least one message.")
    kept = {
        name: given[name] for name in ("temperature", "max_tokens") if given.get(name) is not None
    }
    return {
        "model": given["model"],
        "messages": given["messages"],
        "stream": True,
        "stream_options": {"include_usage": True},
        **kept,
    }


def _refusal(problem: Problem) -> HttpResponse:
    return HttpResponse(
        json.dumps(problem.body()),
        status=problem.status or HTTPStatus.BAD_REQUEST,
        content_type=CONTENT_TYPE,
    )


@per_loop
def _client() -> httpx.AsyncClient:
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    return httpx.AsyncClient(
        timeout=timeout, limits=httpx.Limits(max_connections=256), trust_env=False
    )
