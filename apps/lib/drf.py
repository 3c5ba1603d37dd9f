"""Turn every error of the REST API into `application/problem+json`, once for the whole API."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler, set_rollback

from apps.lib.parsing import too_large
from apps.lib.problems import CONTENT_TYPE, Problem

logger = logging.getLogger(__name__)

DATABASE_RETRY_SECONDS = 2


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the problem response for `error`; None lets Django answer 500 (DRF's hook)."""
    problem = _as_problem(error)
    if problem is None:
        return None
    set_rollback()
    response = Response(problem.body(), status=problem.status, content_type=CONTENT_TYPE)
    plain = (
        exception_handler(error, context) if isinstance(error, exceptions.APIException) else None
    )
    for name in ("WWW-Authenticate", "Retry-After"):
        if plain is not None and name in plain:
            response[name] = plain[name]
    if (seconds := problem.extra.get("retry_after_seconds")) is not None:
        response["Retry-After"] = str(math.ceil(seconds))
    return response


def _as_problem(error: Exception) -> Problem | None:
    if isinstance(error, Problem):
        return error
    if isinstance(error, exceptions.ValidationError):
        return _invalid(error)
    if isinstance(error, exceptions.NotAuthenticated):
        return Problem(
            401, "not_authenticated", "Sign in, or send `Authorization: Bearer <token>`."
        )
    if isinstance(error, exceptions.APIException):
        code = error.get_codes()
        return Problem(
            error.status_code, code if isinstance(code, str) else "error", str(error.detail)
        )
    return _of_django(error)


def _of_django(error: Exception) -> Problem | None:
    """Return the problem for one of Django's own errors; None for a fault of ours."""
    if isinstance(error, Http404):
        return Problem(404, "not_found", str(error) or "There is nothing here.")
    if isinstance(error, PermissionDenied):
        return Problem(403, "permission_denied", str(error) or "Your role does not allow this.")
    if isinstance(error, RequestDataTooBig):
        return too_large()
    if isinstance(error, OperationalError):
        logger.exception("the database did not answer", exc_info=error)
        return Problem(
            503,
            "database_busy",
            "The database does not answer; nothing was changed. Try again in a moment.",
            extra={"retry_after_seconds": DATABASE_RETRY_SECONDS},
        )
    return None


def _invalid(error: exceptions.ValidationError) -> Problem:
    errors = flatten(error.detail)
    first = errors[0]
    where = f"{first['field']}: " if first["field"] else ""
    return Problem(400, "invalid", f"{where}{first['message']}", extra={"errors": errors})


def flatten(detail: object, path: str = "") -> list[dict[str, str]]:
    """Return DRF's nested error detail as `[{"field": "scaling.min_replicas", "message": …}]`."""
    if isinstance(detail, Mapping):
        return [
            row
            for name, value in detail.items()
            for row in flatten(
                value,
                path if name == "non_field_errors" else f"{path}.{name}".lstrip("."),
            )
        ]
    if isinstance(detail, list | tuple):
        return [row for value in detail for row in flatten(value, path)]
    return [{"field": path, "message": str(detail)}]
