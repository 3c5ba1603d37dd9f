"""API keys, aliases, gateways' credentials, the routing table's revision, the usage ledger."""

import uuid

from django.db import models
from django.db.models import Q

from apps.accounts.models import User
from apps.deployments.models import Deployment
from gateway.wire import Outcome


def _positive_or_null(field: str, name: str) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=Q(**{f"{field}__isnull": True}) | Q(**{f"{field}__gt": 0}), name=name
    )


class ApiKey(models.Model):
    """A right to use the gateway. Only the SHA-256 of the secret is kept.

    It works while it is neither revoked nor expired and its owner is active.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=80)
    owner = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="api_keys")
    prefix = models.CharField(max_length=24, unique=True)
    """The part that may be shown."""
    sha256 = models.CharField(max_length=64, unique=True)
    allowed_models = models.JSONField(default=list)
    """Names of deployments and aliases it may use; `["*"]` is all."""
    rpm = models.PositiveIntegerField(null=True)
    """Requests per minute; None: no limit. So with the next two."""
    tpm = models.PositiveIntegerField(null=True)
    """Tokens per minute."""
    max_in_flight = models.PositiveIntegerField(null=True)
    budget_usd_per_day = models.DecimalField(max_digits=12, decimal_places=4, null=True)
    """What it may spend in a day of UTC, by the ledger's costs; so with the month."""
    budget_usd_per_month = models.DecimalField(max_digits=12, decimal_places=4, null=True)
    internal = models.BooleanField(default=False)
    """Made by Hearth for its own pages (the playground); not in lists."""
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            _positive_or_null("rpm", "key_rpm_positive"),
            _positive_or_null("tpm", "key_tpm_positive"),
            _positive_or_null("max_in_flight", "key_max_in_flight_positive"),
            _positive_or_null("budget_usd_per_day", "key_day_budget_positive"),
            _positive_or_null("budget_usd_per_month", "key_month_budget_positive"),
            models.UniqueConstraint(
                fields=["owner"],
                condition=Q(internal=True, revoked_at__isnull=True),
                name="one_internal_key_per_owner",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"


class ModelAlias(models.Model):
    """Another public name of a deployment, which may be pointed elsewhere at any time."""

    name = models.CharField(max_length=200, primary_key=True)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="aliases")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} -> {self.deployment_id}"


class GatewayCredential(models.Model):
    """What a gateway shows to the control plane. Only its SHA-256 is kept."""

    name = models.CharField(max_length=80, primary_key=True)
    sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class TableRevision(models.Model):
    """The newest revision of the routing table: one row, id 1."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    number = models.PositiveBigIntegerField()
    """Rises with every change of content, and past every number that a lost database gave out."""
    sha256 = models.CharField(max_length=64)
    """Of the content."""
    changed_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_table_revision")]

    def __str__(self) -> str:
        return f"routing table {self.number}"


class UsageRow(models.Model):
    """One admitted request, as its gateway closed it. Append-only; outlives all that it names."""

    id = models.CharField(primary_key=True, max_length=128)
    """The request id."""
    parent_id = models.CharField(max_length=128, default="")
    gateway = models.CharField(max_length=128)
    key = models.UUIDField(null=True)
    deployment = models.CharField(max_length=63)
    replica = models.UUIDField(null=True)
    revision = models.PositiveIntegerField(default=0)
    """Number of the deployment's revision that answered; 0 = not known."""
    host = models.CharField(max_length=63, default="")
    model = models.CharField(max_length=200)
    """The name that the client asked for."""
    path = models.CharField(max_length=80)
    stream = models.BooleanField()
    admitted_at = models.DateTimeField(db_index=True)
    finished_at = models.DateTimeField()
    queue_seconds = models.FloatField()
    ttft_seconds = models.FloatField(null=True)
    total_seconds = models.FloatField()
    prompt_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField(null=True)
    output_tokens = models.PositiveBigIntegerField()
    reasoning_tokens = models.PositiveBigIntegerField(null=True)
    estimated = models.BooleanField()
    """Tokens were counted from chunks: the engine's own figures never came."""
    outcome = models.CharField(max_length=16)
    status = models.PositiveSmallIntegerField()
    error = models.CharField(max_length=300, default="")
    bytes_in = models.PositiveBigIntegerField()
    bytes_out = models.PositiveBigIntegerField()
    retries = models.PositiveSmallIntegerField()
    cost_usd = models.DecimalField(max_digits=20, decimal_places=12)
    """Its share of the busy time of its replica: see `apps.traffic.cost`."""
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(outcome__in=[o.value for o in Outcome]), name="usage_outcome_known"
            ),
            models.CheckConstraint(condition=Q(cost_usd__gte=0), name="usage_cost_not_negative"),
            models.CheckConstraint(
                condition=Q(queue_seconds__gte=0, total_seconds__gte=0),
                name="usage_seconds_not_negative",
            ),
        ]
        indexes = [
            models.Index(fields=["deployment", "admitted_at"], name="usage_by_deployment"),
            models.Index(fields=["key", "admitted_at"], name="usage_by_key"),
            models.Index(fields=["replica", "finished_at"], name="usage_by_replica"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.outcome}"


class UsageHour(models.Model):
    """Sums of the usage rows of one hour that are alike, so that a question need not read them all.

    Written with the rows it sums (`ledger`), never by itself. Where a row has none, `key` and
    `replica` are empty: a null would not be unique.
    """

    hour = models.DateTimeField()
    """Start of the hour (UTC) in which the requests were admitted."""
    day = models.DateField()
    deployment = models.CharField(max_length=63)
    key = models.CharField(max_length=36)
    model = models.CharField(max_length=200)
    replica = models.CharField(max_length=36)
    revision = models.PositiveIntegerField()
    host = models.CharField(max_length=63)
    outcome = models.CharField(max_length=16)
    requests = models.PositiveBigIntegerField()
    prompt_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField()
    output_tokens = models.PositiveBigIntegerField()
    cost_usd = models.DecimalField(max_digits=20, decimal_places=12)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "hour",
                    "deployment",
                    "key",
                    "model",
                    "replica",
                    "revision",
                    "host",
                    "outcome",
                ],
                name="usage_hour_once",
            )
        ]
        indexes = [models.Index(fields=["key", "hour"], name="usage_hour_by_key")]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.deployment} {self.outcome}"
