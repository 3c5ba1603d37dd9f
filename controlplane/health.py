"""Is this process alive, and can it serve: `/livez` and `/readyz`, open to anyone.

`/livez` touches nothing, so a database that is away restarts no process. `/readyz` says 503 while
the database or Redis does not answer; it names which, and no addresses.
"""

import logging
from collections.abc import Callable

import redis
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from apps.lib.redis import client

logger = logging.getLogger(__name__)


@login_not_required
@require_safe
def livez(request: HttpRequest) -> JsonResponse:
    """Answer 200: this process runs."""
    return JsonResponse({"status": "ok"})


@login_not_required
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database and Redis answer, else 503 with the one that does not."""
    parts = {"database": _answers(_ask_database), "redis": _answers(_ask_redis)}
    ready = all(parts.values())
    words = {name: "ok" if fine else "no answer" for name, fine in parts.items()}
    body = {"status": "ok" if ready else "not ready", "checks": words}
    return JsonResponse(body, status=200 if ready else 503)


def _answers(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except (DatabaseError, redis.RedisError, OSError) as error:
        logger.warning("not ready: %s", error)
        return False
    return True


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _ask_redis() -> None:
    client().ping()
