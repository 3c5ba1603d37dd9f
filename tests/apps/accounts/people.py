"""Users, tokens and clients for tests: plain functions."""

from datetime import UTC, datetime

from rest_framework.test import APIClient

from apps.accounts import actions
from apps.accounts.models import User
from apps.accounts.states import Role

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"


def make_user(*, username: str = "ada", role: Role = Role.ADMIN, **columns) -> User:
    user = User(username=username, role=role, **columns)
    user.set_unusable_password()
    user.save()
    return user


def client_of(user: User) -> APIClient:
    """Return a client that sends a bearer token of `user`."""
    _, secret = actions.create_token(
        user=user, name="test", expires_at=None, actor=user.username, now=NOW
    )
    return client_with(secret)


def client_with(secret: str) -> APIClient:
    return APIClient(headers={"Authorization": f"Bearer {secret}"})


def make_client(role: Role = Role.ADMIN) -> APIClient:
    """Return a client of a new user with that role, named after it."""
    return client_of(make_user(username=str(role), role=role))
