"""Honour `Idempotency-Key`: a write that is sent twice happens once.

A view mixes in `IdempotentWrites`. With the header, the first request claims the key in a
transaction of its own; then the write and its answer are committed together, so after any crash
either both are there or neither. The same key with the same request gets the stored answer, with
another request 409; while the first is still at work, 409 with `Retry-After`. A claim whose
process died is taken over after `CLAIM_LIFE`; should that process live on after all, it finds its
claim gone and its write is rolled back. Answers are kept for 24 hours. Server errors are not kept:
nothing was written, and the caller may try again. Answers rest sealed, as some show a new secret.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.http import Http404
from rest_framework.exceptions import APIException
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import RememberedAnswer
from apps.lib import clock
from apps.lib.problems import CONTENT_TYPE, Problem
from apps.lib.rendering import JsonRenderer
from apps.lib.sealing import Unsealable, seal, unseal

HEADER = "Idempotency-Key"
KEPT_FOR = timedelta(hours=24)
CLAIM_LIFE = timedelta(minutes=1)
"""Longer than any write takes."""
RETRY_AFTER_SECONDS = 1
_KEY_LIMIT = 255
_KEPT_HEADERS = ("ETag", "Location")

type Handler = Callable[..., Response]


class ClaimLost(Exception):
    """Another request took this key over; what this one wrote is rolled back."""


class IdempotentWrites(APIView):
    """A view whose writes may be repeated safely with the same `Idempotency-Key`."""

    honours_idempotency_key = True

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Let the request in, and put the memory of answers in front of its handler."""
        super().initial(request, *args, **kwargs)
        key = request.headers.get(HEADER)
        method = str(request.method)
        if key is None or method in SAFE_METHODS or not hasattr(self, method.lower()):
            return
        handler = getattr(self, method.lower())
        setattr(self, method.lower(), partial(self._once, handler, _checked(key)))

    def _once(
        self, handler: Handler, key: str, request: Request, *args: object, **kwargs: object
    ) -> Response:
        now = clock.now()
        claim = _claim(str(request.user), key, _fingerprint(request), now)
        if claim.status is not None:
            return _stored(claim)
        try:
            return self._write_and_remember(claim, partial(handler, request, *args, **kwargs))
        except ClaimLost as error:
            raise _at_work() from error
        finally:
            RememberedAnswer.objects.filter(
                pk=claim.pk, status=None, created_at=claim.created_at
            ).delete()

    def _write_and_remember(
        self, claim: RememberedAnswer, write: Callable[[], Response]
    ) -> Response:
        try:
            with transaction.atomic():
                response = write()
                _remember(claim, response)
        except (Problem, APIException, Http404, PermissionDenied) as error:
            response = self.handle_exception(error)
            _remember(claim, response)
        return response


def _checked(key: str) -> str:
    if not (1 <= len(key) <= _KEY_LIMIT and key.isascii() and key.isprintable()):
        raise Problem(
            400,
            "idempotency_key_invalid",
            f"{HEADER}: send 1 to {_KEY_LIMIT} printable ASCII characters, best a UUID.",
        )
    return key


def _fingerprint(request: Request) -> str:
    start = f"{request.method} {request.get_full_path()}\n".encode()
    return hashlib.sha256(start + request._request.body).hexdigest()


@transaction.atomic
def _claim(actor: str, key: str, request_sha256: str, now: datetime) -> RememberedAnswer:
    """Return the row of this key: a new claim of ours, or an answer that is stored already.

    Raises Problem 409 `idempotency_key_reused` or `request_in_progress`.
    """
    RememberedAnswer.objects.filter(created_at__lt=now - KEPT_FOR).delete()
    claim = RememberedAnswer(actor=actor, key=key, request_sha256=request_sha256, created_at=now)
    try:
        with transaction.atomic():
            claim.save(force_insert=True)
    except IntegrityError:
        return _known(actor, key, request_sha256, now)
    return claim


def _known(actor: str, key: str, request_sha256: str, now: datetime) -> RememberedAnswer:
    known = RememberedAnswer.objects.filter(actor=actor, key=key).first()
    if known is None:  # the first request failed this very moment
        raise _at_work()
    if known.request_sha256 != request_sha256:
        raise Problem(
            409,
            "idempotency_key_reused",
            f"{HEADER}: this key came with another request before; use a new one.",
        )
    if known.status is None:
        return _taken_over(known, now)
    return known


def _taken_over(known: RememberedAnswer, now: datetime) -> RememberedAnswer:
    """Return the claim of a request whose process must have died, now ours."""
    if now - known.created_at < CLAIM_LIFE:
        raise _at_work()
    ours = RememberedAnswer.objects.filter(
        pk=known.pk, status=None, created_at=known.created_at
    ).update(created_at=now)
    if not ours:
        raise _at_work()
    known.created_at = now
    return known


def _at_work() -> Problem:
    return Problem(
        409,
        "request_in_progress",
        "The first request with this key is still at work; ask again in a moment.",
        extra={"retry_after_seconds": RETRY_AFTER_SECONDS},
    )


def _remember(claim: RememberedAnswer, response: Response) -> None:
    """Keep `response` in `claim`. Raises ClaimLost if the claim is no longer ours."""
    if response.status_code >= 500:
        return
    headers = {name: response[name] for name in _KEPT_HEADERS if name in response}
    kept = RememberedAnswer.objects.filter(
        pk=claim.pk, status=None, created_at=claim.created_at
    ).update(
        status=response.status_code,
        body=seal((JsonRenderer().render(response.data) or b"null").decode()),
        headers=headers,
    )
    if not kept:
        raise ClaimLost


def _stored(answer: RememberedAnswer) -> Response:
    status = int(answer.status or 500)
    try:
        body = json.loads(unseal(str(answer.body)))
    except Unsealable as error:
        raise Problem(
            409, "idempotency_key_spent", f"{HEADER}: its answer is lost; look whether it happened."
        ) from error
    response = Response(
        body,
        status=status,
        headers={**answer.headers, "Idempotency-Replayed": "true"},
    )
    if status >= 400:
        response.content_type = CONTENT_TYPE
    return response
