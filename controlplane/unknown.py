"""What the API answers outside its views: a problem in JSON, never a page or a redirect.

Addresses under `/api` that do not exist, and faults of ours in those that do.
"""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import Resolver404, resolve
from django.views.decorators.csrf import csrf_exempt
from django.views.defaults import server_error

from apps.lib.problems import CONTENT_TYPE, Problem


@csrf_exempt
@login_not_required
def unknown_address(request: HttpRequest) -> JsonResponse:
    """Answer 404, with the right address where only the final slash is wrong.

    No redirect: it would turn a POST into a GET and lose its body (ASVS 5.0, 4.1.2).
    """
    near = _with_other_slash(request.path)
    hint = f" Did you mean {near}?" if near else " See /api/docs for those that do."
    return _answer(Problem(404, "not_found", f"{request.path} does not exist.{hint}"))


def fault(request: HttpRequest) -> HttpResponse:
    """Answer 500 without details: they stand in the log (ASVS 5.0, 16.5.1)."""
    if not request.path.startswith("/api/"):
        return server_error(request)
    detail = "Hearth failed to answer; the reason stands in the web process's log."
    return _answer(Problem(500, "internal_error", detail))


def _answer(problem: Problem) -> JsonResponse:
    return JsonResponse(problem.body(), status=problem.status, content_type=CONTENT_TYPE)


def _with_other_slash(path: str) -> str | None:
    other = path.rstrip("/") if path.endswith("/") else f"{path}/"
    try:
        match = resolve(other)
    except Resolver404:
        return None
    return None if match.func is unknown_address else other
