"""`/rag/v1/chat/completions`: OpenAI's chat on a model alias, answered from its knowledge base.

Called by gateways, which pass a chat for `smollm2+handbook` on as it came, and by any OpenAI client
whose base URL is `/rag/v1`. It authenticates the API key itself, retrieves, and calls the gateway
for the deployment behind the alias on that same key, with the request's id as the parent's.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from apps.lib.problems import Problem
from apps.rag import aliases, served
from apps.rag.models import Alias
from apps.rag.retrieval import Trace, search
from apps.rag.served import ServedAway, ServedRefused

MOST_BODY_BYTES = 4 * 1024 * 1024
_PASSED_ON = ("x-request-id", "x-hearth-replica", "x-hearth-route", "retry-after")


@csrf_exempt
@login_not_required
@require_POST
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Answer one chat, plain or streamed."""
    try:
        body = _body(request)
        alias, trace, key = await sync_to_async(_retrieved)(request, body)
        sent = aliases.passed_on(alias, body, trace)
        answer = await served.open_chat(sent, key=key, parent=trace.asked.run)
    except Problem as problem:
        return _refusal(problem)
    except ServedAway as error:
        return _refusal(served.away(error))
    except ServedRefused as error:
        return _refusal(Problem(error.status, "deployment_refused", str(error)))
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    if sent.get("stream"):
        return StreamingHttpResponse(
            _lines(answer, alias.name, trace),
            content_type="text/event-stream",
            headers={**headers, "X-Accel-Buffering": "no"},
        )
    try:
        whole = json.loads(await answer.aread())
    except (httpx.HTTPError, ValueError) as error:
        broke = f"{alias.deployment}: the answer broke off: {error or type(error).__name__}."
        return _refusal(served.away(ServedAway(broke)))
    finally:
        await answer.aclose()
    told = {**whole, "model": alias.name, "citations": aliases.sources(trace)}
    return HttpResponse(json.dumps(told), content_type="application/json", headers=headers)


def _retrieved(request: HttpRequest, body: Mapping[str, Any]) -> tuple[Alias, Trace, str]:
    who = aliases.caller(request.headers.get("Authorization", ""))
    alias = aliases.alias_for(who, body["model"])
    parent = request.headers.get("x-request-id", "")[:64]
    return alias, search(aliases.asked_of(alias, body, who, parent)), who.secret


async def _lines(answer: httpx.Response, name: str, trace: Trace) -> AsyncIterator[bytes]:
    """Yield the engine's events under the alias' name; the first one brings the citations."""
    extra: dict[str, Any] = {"citations": aliases.sources(trace)}
    try:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                chunk = {**json.loads(line[6:]), "model": name, **extra}
                extra = {}
                yield f"data: {json.dumps(chunk)}\n\n".encode()
            elif line:
                yield f"{line}\n\n".encode()
    except httpx.HTTPError as error:
        told = {"error": {"message": f"The stream broke: {error or type(error).__name__}."}}
        yield f"data: {json.dumps(told)}\n\n".encode()
    finally:
        await answer.aclose()


def _body(request: HttpRequest) -> dict[str, Any]:
    if len(request.body) > MOST_BODY_BYTES:
        raise Problem(413, "too_large", f"The chat is larger than {MOST_BODY_BYTES:,} bytes.")
    try:
        given = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "invalid", f"The body is not JSON: {error}.") from error
    if not isinstance(given, dict) or not isinstance(given.get("model"), str):
        raise Problem(400, "invalid", "model: name an alias, as smollm2+handbook.")
    return given


def _refusal(problem: Problem) -> HttpResponse:
    """Return an error in OpenAI's shape: who calls this speaks that."""
    kinds = {401: "authentication_error", 503: "server_error", 502: "server_error"}
    error = {
        "message": problem.detail,
        "type": kinds.get(problem.status, "invalid_request_error"),
        "param": problem.extra.get("field"),
        "code": problem.code,
    }
    response = HttpResponse(
        json.dumps({"error": error}), status=problem.status, content_type="application/json"
    )
    if (seconds := problem.extra.get("retry_after_seconds")) is not None:
        response["Retry-After"] = str(seconds)
    return response
