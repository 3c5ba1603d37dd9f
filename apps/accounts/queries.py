"""Reads of people, tokens and the audit log."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from apps.accounts.models import ApiToken, AuditEntry, User
from apps.accounts.states import Role
from apps.lib import secrets
from apps.lib.problems import Problem

CHAIN_START = "0" * 64
"""`previous_sha256` of the first audit entry."""


def token_by_secret(secret: str) -> ApiToken | None:
    """Return the API token with this secret, with its user; None if there is none."""
    return ApiToken.objects.select_related("user").filter(sha256=secrets.digest(secret)).first()


def tokens_of(user: User, *, everyone: bool) -> QuerySet[ApiToken]:
    """Return the tokens of `user`, or of all users when `everyone`, newest first."""
    tokens = ApiToken.objects.select_related("user").order_by("-created_at", "id")
    return tokens if everyone else tokens.filter(user=user)


def users() -> QuerySet[User]:
    """Return all users by name."""
    return User.objects.order_by("username", "id")


def user(username: str) -> User:
    """Return the user of that name. Raises Problem 404 `user_unknown`."""
    found = User.objects.filter(username=username).first()
    if found is None:
        raise Problem(404, "user_unknown", f"There is no user `{username}`.")
    return found


def other_active_admins(user: User) -> int:
    """Return how many active admins there are besides `user`."""
    admins = User.objects.filter(is_active=True).exclude(pk=user.pk)
    return admins.filter(role=Role.ADMIN).count() + (
        admins.filter(is_superuser=True).exclude(role=Role.ADMIN).count()
    )


@dataclass(frozen=True, kw_only=True)
class AuditFilter:
    """Which audit entries; empty means any. `since` counts, `until` does not."""

    actor: str = ""
    action: str = ""
    """A whole action, or its beginning up to a dot: `deployment` finds `deployment.created`."""
    target: str = ""
    since: datetime | None = None
    until: datetime | None = None


def audit_entries(wanted: AuditFilter) -> QuerySet[AuditEntry]:
    """Return the audit entries that match, newest first."""
    entries = AuditEntry.objects.order_by("-id")
    if wanted.actor:
        entries = entries.filter(actor=wanted.actor)
    if wanted.action:
        entries = entries.filter(action=wanted.action) | entries.filter(
            action__startswith=f"{wanted.action}."
        )
    if wanted.target:
        entries = entries.filter(target=wanted.target)
    if wanted.since is not None:
        entries = entries.filter(at__gte=wanted.since)
    if wanted.until is not None:
        entries = entries.filter(at__lt=wanted.until)
    return entries


def entry_sha256(entry: AuditEntry) -> str:
    """Return the hash of an audit entry: over its own columns and the hash before it."""
    members: list[Any] = [
        entry.previous_sha256,
        entry.at.isoformat(),
        entry.actor,
        entry.action,
        entry.target,
        entry.data,
    ]
    text = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class ChainCheck:
    """What a walk along the audit log found."""

    entries: int
    """Entries that were checked and are right."""
    head_sha256: str
    """Hash of the last right entry; kept elsewhere, it also proves that no later ones were cut."""
    broken_at: int | None = None
    """Id of the first entry that is changed, or before which one is missing."""


def verify_chain() -> ChainCheck:
    """Walk the whole audit log, oldest first, and return how far its hash chain holds."""
    head, count = CHAIN_START, 0
    for entry in AuditEntry.objects.order_by("id").iterator(chunk_size=1000):
        if entry.previous_sha256 != head or entry.sha256 != entry_sha256(entry):
            return ChainCheck(count, head, broken_at=entry.pk)
        head, count = entry.sha256, count + 1
    return ChainCheck(count, head)
