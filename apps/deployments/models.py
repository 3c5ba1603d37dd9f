"""Deployments, their immutable revisions, their replicas, and the record of what happened.

Desired and observed state are different columns with different writers: people and the reconciler
write `desired*`, `generation`; agents' reports (through `actions.record_report`) write the rest.
"""

import uuid
from enum import StrEnum

from django.db import models

from apps.deployments.states import (
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
)
from apps.fleet.models import Host


def _known(field: str, kind: type[StrEnum], name: str) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=models.Q(**{f"{field}__in": [member.value for member in kind]}), name=name
    )


class Deployment(models.Model):
    """What an operator asked for: one model, served under one name."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(max_length=63, unique=True)
    catalog_slug = models.CharField(max_length=80)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    # Desired.
    desired = models.CharField(max_length=16, default=DesiredDeployment.RUNNING)
    generation = models.PositiveBigIntegerField(default=1)
    placement = models.JSONField(default=dict)
    """`{host, labels, device, wait}`, all optional."""
    resources = models.JSONField(default=dict)
    """`{memory_bytes, gpus}`, all optional."""

    # Observed.
    phase = models.CharField(max_length=16, default=DeploymentPhase.STARTING)
    reason = models.TextField(default="")
    observed_generation = models.PositiveBigIntegerField(default=0)
    changed_at = models.DateTimeField()

    # The reconciler's lease.
    lease_owner = models.CharField(max_length=64, default="")
    lease_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            _known("desired", DesiredDeployment, "deployment_desired_known"),
            _known("phase", DeploymentPhase, "deployment_phase_known"),
        ]

    def __str__(self) -> str:
        return self.name


class Revision(models.Model):
    """Immutable engine settings of a deployment; a change makes a new one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField()
    variant = models.CharField(max_length=80)
    engine = models.CharField(max_length=32)
    """`agents.wire.EngineKind`."""
    device = models.CharField(max_length=16)
    task = models.CharField(max_length=16)
    settings = models.JSONField(default=dict)
    """What the operator set over the variant's own settings."""
    spec = models.JSONField()
    """`agents.wire.EngineSpec` as JSON, without GPUs: complete and final."""
    need = models.JSONField(default=dict)
    """`{weights_bytes, kv_bytes, activation_bytes, runtime_bytes, total_bytes, gpus}`."""
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="revision_number_once")
        ]

    def __str__(self) -> str:
        return f"{self.deployment_id} r{self.number}"


class ScalingPolicy(models.Model):
    """How many replicas. Not part of a revision: a change restarts nothing."""

    deployment = models.OneToOneField(
        Deployment, primary_key=True, on_delete=models.CASCADE, related_name="scaling"
    )
    min_replicas = models.PositiveIntegerField(default=1)
    max_replicas = models.PositiveIntegerField(default=1)
    target_concurrency = models.PositiveIntegerField(default=8)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(min_replicas__lte=models.F("max_replicas")),
                name="scaling_min_at_most_max",
            )
        ]

    def __str__(self) -> str:
        return f"{self.min_replicas}-{self.max_replicas}"


class Replica(models.Model):
    """One running or wanted engine of one revision."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="replicas")
    revision = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="replicas")
    host = models.ForeignKey(Host, null=True, on_delete=models.PROTECT, related_name="replicas")
    created_at = models.DateTimeField()

    # Desired, written by the reconciler.
    desired = models.CharField(max_length=16, default=DesiredReplica.RUNNING)
    generation = models.PositiveBigIntegerField(default=1)
    gpu_uuids = models.JSONField(default=list)
    memory_bytes = models.PositiveBigIntegerField(default=0)
    """Bytes reserved: per GPU of `gpu_uuids`, or of the host's memory for a CPU replica."""
    drain_until = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    """When a failed replica is tried again."""
    failures = models.PositiveIntegerField(default=0)
    """Failures in a row; sets the back-off, zeroed after five minutes of serving."""

    # Observed, written from reports.
    phase = models.CharField(max_length=16, default=ReplicaPhase.PENDING)
    phase_at = models.DateTimeField()
    version = models.PositiveBigIntegerField(default=0)
    """Guard of phase moves: a stale copy changes no row."""
    observed_generation = models.PositiveBigIntegerField(default=0)
    ready_at = models.DateTimeField(null=True)
    reason = models.TextField(default="")
    code = models.CharField(max_length=32, default="")
    exit_code = models.IntegerField(null=True)
    log_tail = models.JSONField(default=list)
    stage_seconds = models.JSONField(default=dict)
    progress = models.JSONField(null=True)
    """`agents.wire.Progress` as JSON while it comes up."""
    endpoint = models.JSONField(null=True)
    """`agents.wire.Endpoint` as JSON while it is up."""
    runtime = models.CharField(max_length=16, default="")
    runtime_ref = models.CharField(max_length=80, default="")
    engine_version = models.CharField(max_length=40, default="")
    kv_cache_tokens = models.PositiveBigIntegerField(null=True)
    restarts = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            _known("phase", ReplicaPhase, "replica_phase_known"),
            _known("desired", DesiredReplica, "replica_desired_known"),
        ]
        indexes = [models.Index(fields=["deployment", "phase"], name="replica_by_deployment")]

    def __str__(self) -> str:
        return f"{self.id} {self.phase}"


class Event(models.Model):
    """Something that happened, in one sentence. Append-only; `id` is the order of the feed."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=40)
    """`deployment.created`, `replica.ready`, `host.unknown`, …"""
    severity = models.CharField(max_length=8, default="info")
    """`info`, `warning` or `error`."""
    actor = models.CharField(max_length=150, default="")
    """A user's name, `reconciler` or `agent:<host>`."""
    deployment = models.CharField(max_length=63, default="", db_index=True)
    """Names and ids, not keys: events outlive what they tell of."""
    replica = models.UUIDField(null=True)
    host = models.CharField(max_length=63, default="")
    message = models.TextField()
    data = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.message


class Decision(models.Model):
    """Why placement (later the autoscaler, the rollout) did what it did, with its inputs."""

    id = models.BigAutoField(primary_key=True)
    created_at = models.DateTimeField(db_index=True)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="decisions")
    kind = models.CharField(max_length=40)
    reason = models.TextField()
    inputs = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


class ReadRequest(models.Model):
    """A read from an agent with a deadline (a log tail), and its answer."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey(Host, on_delete=models.CASCADE)
    replica = models.ForeignKey(Replica, on_delete=models.CASCADE)
    lines = models.PositiveIntegerField(default=200)
    deadline_at = models.DateTimeField()
    answer = models.JSONField(null=True)
    """`agents.wire.ReadReply` as JSON."""

    def __str__(self) -> str:
        return f"read {self.id}"
