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
    taints = models.JSONField(default=list)
    """`[{key, value, effect}]`; `refuse` keeps away orders that do not tolerate it, `avoid` only
    makes the host the last choice."""
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


class Capacity(models.Model):
    """What one GPU (or MIG slice) of a host can give, or its main memory; and what is booked of it.

    `booked_bytes` and the counts are sums over the bookings, written in the transaction that
    changes one (`apps.deployments.bookings`). The constraints are the last word: no transaction
    that books more than there is, or a GPU twice, can commit.
    """

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="capacities")
    gpu_uuid = models.CharField(max_length=96, default="", blank=True)
    """Empty for the host's main memory."""
    total_bytes = models.PositiveBigIntegerField()
    booked_bytes = models.PositiveBigIntegerField(default=0)
    whole_bookings = models.PositiveIntegerField(default=0)
    """Awake replicas that have the GPU for themselves."""
    shared_bookings = models.PositiveIntegerField(default=0)
    """Awake replicas that take a fraction of the GPU."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["host", "gpu_uuid"], name="capacity_once_per_device"),
            models.CheckConstraint(
                condition=models.Q(booked_bytes__lte=models.F("total_bytes")),
                name="capacity_not_exceeded",
            ),
            models.CheckConstraint(
                condition=models.Q(whole_bookings=0)
                | models.Q(whole_bookings=1, shared_bookings=0),
                name="capacity_gpu_booked_once",
            ),
        ]

    def __str__(self) -> str:
        return self.gpu_uuid or f"memory of {self.host_id}"


class CacheItem(models.Model):
    """Something that is to lie on a host ahead of time: an image (or engine), or weights."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="cache_items")
    kind = models.CharField(max_length=16)
    """`agents.wire.CacheKind`."""
    key = models.CharField(max_length=250)
    """The weights' key, or the image; the same for every deployment that needs it."""
    order = models.JSONField()
    """`agents.wire.CacheOrder` as JSON, without its id."""
    wanted_by = models.JSONField(default=list)
    """Names of the deployments that asked for it."""
    wanted_at = models.DateTimeField()

    # Observed.
    state = models.CharField(max_length=16, default="absent")
    """`agents.wire.CacheState`."""
    bytes = models.PositiveBigIntegerField(default=0)
    seconds = models.FloatField(null=True)
    """What bringing it took."""
    origin = models.CharField(max_length=120, default="")
    """Where it came from: a registry, the hub, a bucket, a host."""
    progress = models.JSONField(null=True)
    reason = models.TextField(default="")
    state_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["host", "kind", "key"], name="cache_item_once")
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key} on {self.host_id}"


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
