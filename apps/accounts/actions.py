"""Writes about people, their tokens and the audit log.

`audit` is called by every app's actions inside their own transaction, so a change and its entry
are kept or lost together.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, transaction

from apps.accounts import queries
from apps.accounts.models import DEFAULT_TEAM, ApiToken, AuditEntry, User
from apps.accounts.states import Role
from apps.lib import clock, locks, secrets
from apps.lib.locks import Lock
from apps.lib.problems import Problem

ADMIN_NAME = "admin"
"""The user that the first start makes, and as whom the bootstrap token acts."""

_USE_NOTED_EVERY = timedelta(minutes=1)
"""`last_used_at` is this coarse, so that reading the API writes next to nothing."""


@transaction.atomic
def audit(
    *, actor: str, action: str, target: str, data: Mapping[str, Any] | None = None
) -> AuditEntry:
    """Append an entry to the audit log, chained to the one before it by hash.

    Two writers queue here until the first one's transaction ends. `data` must hold no secrets.
    """
    locks.hold(Lock.AUDIT)
    last = AuditEntry.objects.order_by("-id").only("sha256").first()
    entry = AuditEntry(
        at=clock.now(),
        actor=actor[:150],
        action=action,
        target=target[:200],
        data=json.loads(json.dumps(data or {}, cls=DjangoJSONEncoder)),
        previous_sha256=last.sha256 if last else queries.CHAIN_START,
    )
    entry.sha256 = queries.entry_sha256(entry)
    entry.save(force_insert=True)
    return entry


@transaction.atomic
def ensure_admin(password: str) -> bool:
    """Make the user `admin` with `password` unless it has a password; return whether it did."""
    admin = bootstrap_admin()
    if admin.has_usable_password():
        return False
    admin.set_password(password)
    admin.save(update_fields=["password"])
    audit(actor="system", action="user.password_set", target=ADMIN_NAME)
    return True


def bootstrap_admin() -> User:
    """Return the user `admin`, made without a password if there is none yet."""
    found = User.objects.filter(username=ADMIN_NAME).first()
    return found or _make_admin()


@transaction.atomic
def _make_admin() -> User:
    try:
        with transaction.atomic():
            admin = User(username=ADMIN_NAME, role=Role.ADMIN)
            admin.set_unusable_password()
            admin.save(force_insert=True)
    except IntegrityError:  # another process was first
        return User.objects.get(username=ADMIN_NAME)
    audit(actor="system", action="user.created", target=ADMIN_NAME, data={"role": Role.ADMIN})
    return admin


@transaction.atomic
def create_user(
    *, username: str, password: str, role: Role, actor: str, team: str = DEFAULT_TEAM
) -> User:
    """Make a user. Raises Problem 409 `user_exists`, 400 `password_weak`."""
    user = User(username=username, role=role, team=team)
    _check_password(password, user)
    user.set_password(password)
    try:
        with transaction.atomic():
            user.save(force_insert=True)
    except IntegrityError as error:
        raise Problem(
            409,
            "user_exists",
            f"There is a user `{username}` already.",
            extra={"field": "username"},
        ) from error
    audit(actor=actor, action="user.created", target=username, data={"role": role, "team": team})
    return user


@transaction.atomic
def change_user(
    *,
    user: User,
    role: Role | None,
    active: bool | None,
    password: str | None,
    actor: str,
    team: str | None = None,
) -> None:
    """Change what is given and leave what is None, all or nothing.

    Raises the Problems of `set_role`, `set_active` and `set_password`.
    """
    if role is not None:
        set_role(user=user, role=role, actor=actor)
    if active is not None:
        set_active(user=user, active=active, actor=actor)
    if password is not None:
        set_password(user=user, password=password, actor=actor)
    if team is not None:
        set_team(user=user, team=team, actor=actor)


@transaction.atomic
def set_team(*, user: User, team: str, actor: str) -> None:
    """Move `user` to another team: they see its knowledge bases from now on, and no others."""
    old, user.team = user.team, team
    user.save(update_fields=["team"])
    audit(actor=actor, action="user.team_set", target=user.username, data={"old": old, "new": team})


@transaction.atomic
def set_password(*, user: User, password: str, actor: str) -> None:
    """Give `user` a new password; ends their other sessions. Raises Problem `password_weak`."""
    _check_password(password, user)
    user.set_password(password)
    user.save(update_fields=["password"])
    audit(actor=actor, action="user.password_set", target=user.username)


@transaction.atomic
def set_role(*, user: User, role: Role, actor: str) -> None:
    """Give `user` another role. Raises Problem 409 `last_admin` when no admin would be left."""
    if role is not Role.ADMIN:
        _refuse_losing_the_last_admin(user)
    old = user.role
    user.role = role
    user.save(update_fields=["role"])
    audit(actor=actor, action="user.role_set", target=user.username, data={"old": old, "new": role})


@transaction.atomic
def set_active(*, user: User, active: bool, actor: str) -> None:
    """Switch `user` on or off; off takes effect with the next request. Raises `last_admin`."""
    if not active:
        _refuse_losing_the_last_admin(user)
    user.is_active = active
    user.save(update_fields=["is_active"])
    action = "user.switched_on" if active else "user.switched_off"
    audit(actor=actor, action=action, target=user.username)


def _refuse_losing_the_last_admin(user: User) -> None:
    locks.hold(Lock.ADMINS)  # of two admins who take each other's role, one succeeds
    if queries.other_active_admins(user) == 0:
        raise Problem(
            409, "last_admin", f"`{user.username}` is the last admin; make another one first."
        )


def _check_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise Problem(
            400, "password_weak", " ".join(error.messages), extra={"field": "password"}
        ) from error


@transaction.atomic
def create_token(
    *, user: User, name: str, expires_at: datetime | None, actor: str, now: datetime
) -> tuple[ApiToken, str]:
    """Make an API token that acts as `user`; return it and its secret, which is kept nowhere.

    Raises Problem 400 `expiry_past`.
    """
    if expires_at is not None and expires_at <= now:
        raise Problem(
            400, "expiry_past", "expires_at lies in the past.", extra={"field": "expires_at"}
        )
    secret = secrets.make("hearth")
    token = ApiToken.objects.create(
        user=user, name=name, sha256=secrets.digest(secret), created_at=now, expires_at=expires_at
    )
    audit(
        actor=actor,
        action="token.created",
        target=user.username,
        data={"id": token.pk, "name": name, "expires_at": expires_at},
    )
    return token, secret


@transaction.atomic
def revoke_token(*, token: ApiToken, actor: str) -> None:
    """Delete `token`; the next request with it is refused."""
    audit(
        actor=actor,
        action="token.revoked",
        target=token.user.username,
        data={"id": token.pk, "name": token.name},
    )
    token.delete()


def note_use(*, token: ApiToken, now: datetime) -> None:
    """Keep when `token` was used last, to the minute."""
    if token.last_used_at is None or now - token.last_used_at >= _USE_NOTED_EVERY:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
