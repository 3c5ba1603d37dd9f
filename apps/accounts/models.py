"""People, their tokens for automation, the audit log, and remembered answers to repeated writes."""

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models

from apps.accounts.states import Role


def _choices(kind: type[Role]) -> list[tuple[str, str]]:
    return [(member.value, member.value) for member in kind]


DEFAULT_TEAM = "default"


class User(AbstractUser):
    role = models.CharField(max_length=16, choices=_choices(Role), default=Role.VIEWER)
    team = models.CharField(max_length=63, default=DEFAULT_TEAM)
    """Whose knowledge bases they see, and with whom they share cached prefixes."""

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(role__in=[r.value for r in Role]), name="user_role_known"
            )
        ]

    def __str__(self) -> str:
        return self.username


class ApiToken(models.Model):
    """A bearer token of the REST API. Only its SHA-256 is kept; it acts with its user's role."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=80)
    sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class AuditEntry(models.Model):
    """Who changed what. Append-only; each row carries the hash of the one before it."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_index=True)
    actor = models.CharField(max_length=150)
    action = models.CharField(max_length=80)
    target = models.CharField(max_length=200)
    data = models.JSONField(default=dict)
    previous_sha256 = models.CharField(max_length=64, unique=True)
    sha256 = models.CharField(max_length=64, unique=True)

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.target}"


class RememberedAnswer(models.Model):
    """The answer to a write that came with an `Idempotency-Key`, kept for 24 hours."""

    actor = models.CharField(max_length=150)
    key = models.CharField(max_length=255)
    request_sha256 = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    """None while the first request is still at work."""
    body = models.JSONField(null=True)
    headers = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["actor", "key"], name="one_answer_per_key"),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.key}"
