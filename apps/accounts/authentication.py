"""Who calls the REST API: a bearer token of a user, or the bootstrap token of the installation.

Sessions are DRF's own `SessionAuthentication` (with its CSRF check). A wrong token is refused even
when a session would have let the caller in, so that a typing error never acts as someone else.
"""

import hmac
from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from apps.accounts import actions, queries
from apps.accounts.models import ApiToken, User
from apps.lib import clock

_SCHEME = "bearer"


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken | None] | None:
        """Return (user, token); None when the request carries no bearer token.

        Raises AuthenticationFailed (401) for a token that is not known and live.
        """
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != _SCHEME:
            return None
        if not secret.strip():
            raise AuthenticationFailed("Authorization: send `Bearer <token>`.")
        return _holder_of(secret.strip())

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge; having one makes DRF answer 401 instead of 403."""
        return 'Bearer realm="hearth"'


def _holder_of(secret: str) -> tuple[User, ApiToken | None]:
    if _is_bootstrap_token(secret):
        return _active(actions.bootstrap_admin()), None
    token = queries.token_by_secret(secret)
    if token is None:
        raise AuthenticationFailed("The token is not known; make one at POST /api/v1/tokens/.")
    now = clock.now()
    if token.expires_at is not None and token.expires_at <= now:
        raise AuthenticationFailed(f"The token `{token.name}` expired at {token.expires_at}.")
    user = _active(token.user)
    actions.note_use(token=token, now=now)
    return user, token


def _is_bootstrap_token(secret: str) -> bool:
    known: str = settings.API_TOKEN
    return bool(known) and hmac.compare_digest(secret.encode(), known.encode())


def _active(user: User) -> User:
    if not user.is_active:
        raise AuthenticationFailed(f"The user `{user.username}` is switched off.")
    return user


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells the OpenAPI generator about `TokenAuthentication`."""

    target_class = "apps.accounts.authentication.TokenAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: object) -> dict[str, Any]:
        """Return the OpenAPI security scheme object."""
        return {"type": "http", "scheme": _SCHEME}
