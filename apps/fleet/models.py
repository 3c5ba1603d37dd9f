"""Hosts and what enrols them. Observed columns are written from agents' reports only."""

import uuid

from django.db import models

from apps.fleet.states import HostState


class Host(models.Model):
    """One enrolled machine with an agent."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(max_length=63, unique=True)

    # Desired, written by people.
    cordoned = models.BooleanField(default=False)
    labels = models.JSONField(default=dict)
    price_per_hour_usd = models.DecimalField(max_digits=12, decimal_places=6, null=True)
    """None: the default price of its GPU kind, or of a CPU host, counts."""

    # Identity and fences.
    install_id = models.CharField(max_length=64, unique=True)
    credential_sha256 = models.CharField(max_length=64, unique=True)
    relay_key = models.CharField(max_length=80)
    agent_epoch = models.PositiveBigIntegerField(default=0)
    agent_session = models.CharField(max_length=64, default="")
    report_seq = models.PositiveBigIntegerField(default=0)
    revision = models.PositiveBigIntegerField(default=0)
    """Counter of this host's desired state; a sync is answered when the agent knows less."""

    # Observed.
    state = models.CharField(max_length=16, default=HostState.READY)
    state_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    inventory = models.JSONField(default=dict)
    """`agents.wire.Inventory` as JSON."""
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=[s.value for s in HostState]), name="host_state_known"
            )
        ]

    def __str__(self) -> str:
        return self.name


class JoinToken(models.Model):
    """A one-time right to enrol a host. Only its SHA-256 is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    sha256 = models.CharField(max_length=64, unique=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    host = models.ForeignKey(Host, null=True, on_delete=models.SET_NULL)

    def __str__(self) -> str:
        return f"join token {self.id}"


class DefaultPrice(models.Model):
    """Price of an hour of a GPU of one kind, or of a CPU host (`kind` = `cpu`)."""

    kind = models.CharField(max_length=80, primary_key=True)
    price_per_hour_usd = models.DecimalField(max_digits=12, decimal_places=6)

    def __str__(self) -> str:
        return f"{self.kind}: {self.price_per_hour_usd} $/h"


class Incarnation(models.Model):
    """The identity of this database: one row. A restore from a backup makes a new one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    singleton = models.BooleanField(default=True, unique=True)
    """Always true: two processes that start at once cannot both make the row."""
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(singleton=True), name="incarnation_is_single")
        ]

    def __str__(self) -> str:
        return str(self.id)
