"""Deployments, their immutable revisions, their replicas, and the record of what happened.

Desired and observed state are different columns with different writers: people and the reconciler
write `desired*`, `generation`; agents' reports (through `actions.record_report`) write the rest.
"""

import uuid
from enum import StrEnum

from django.db import models

from apps.deployments.member_rows import Member as Member
from apps.deployments.states import (
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
    RolloutStage,
    RolloutState,
    ScalingProfile,
    ScalingRule,
)
from apps.deployments.warm_rows import Start as Start
from apps.deployments.warm_rows import WarmPool as WarmPool
from apps.fleet.models import Capacity, Host


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
    """`{host, labels, device, gpu_kind, tolerations, strategy}`, all optional."""
    resources = models.JSONField(default=dict)
    """`{memory_bytes, gpu_ratio}`, all optional."""
    rollout = models.JSONField(default=dict)
    """`rollout_policy.RolloutPolicy` as JSON; for changes to come."""
    live = models.ForeignKey("Revision", null=True, on_delete=models.SET_NULL, related_name="+")
    """The revision that is to serve; while a rollout is open, the one to go back to."""
    owner = models.CharField(max_length=63, default="")
    """The set of files that it is kept in (`manage.py apply`); empty for one made by hand."""

    used_at = models.DateTimeField(null=True)
    """When a replica of it was last wanted hot, give or take minutes; its sleepers go by this."""
    evicted_at = models.DateTimeField(null=True)
    """When one of its sleepers last had to make room for another deployment."""

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
    """`{weights_bytes, kv_bytes, …, total_bytes, gpus}`: the parts of `apps.catalog.need.Need`;
    with `hosts`, the GPUs are those of so many hosts, of each as many."""
    fit = models.JSONField(default=dict)
    """What placement and the comparison with the engine's own report go by; see `recipes`."""
    sleep_fault = models.TextField(default="")
    """Why its engine cannot sleep, as measured; empty while nothing is known against it."""
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
    """Requests in flight that one replica is given before another is wanted."""
    asleep_replicas = models.PositiveIntegerField(default=0)
    """Kept asleep beyond those that serve: memory of the GPU freed, seconds from ready."""
    cached_replicas = models.PositiveIntegerField(default=0)
    """Hosts kept with image, weights and compile caches beyond those."""
    asleep_ttl_seconds = models.PositiveIntegerField(default=8 * 3600)
    """Without use for so long the sleepers go too; 0 keeps them for ever."""
    shares_pool = models.BooleanField(default=False)
    """May hold a slot of the shared pool of its kind of GPU beyond `asleep_replicas`."""
    profile = models.CharField(max_length=16, default=ScalingProfile.BALANCED)
    rule = models.CharField(max_length=16, default=ScalingRule.HEARTH)
    scale_to_zero_after_seconds = models.PositiveIntegerField(default=600)
    """Without a request for so long, with `min_replicas` 0, nothing is kept hot."""
    hold_seconds = models.PositiveIntegerField(default=300)
    """What was needed within so long is kept."""
    schedule = models.JSONField(default=list)
    """`[{cron, timezone, duration_seconds, min_replicas, max_replicas}]`: bounds by the clock."""
    gpu_budget = models.PositiveIntegerField(null=True)
    """GPUs that all replicas together may hold; None is no limit."""
    ttft_target_seconds = models.FloatField(null=True)
    """One replica more while the p95 over a minute is above it and nothing is starting."""

    class Meta:
        constraints = [
            _known("profile", ScalingProfile, "scaling_profile_known"),
            _known("rule", ScalingRule, "scaling_rule_known"),
            models.CheckConstraint(
                condition=models.Q(min_replicas__lte=models.F("max_replicas")),
                name="scaling_min_at_most_max",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.min_replicas}-{self.max_replicas}"


class ScalerState(models.Model):
    """What the autoscaler wants of a deployment, and what it remembers. It alone writes here.

    People write `ScalingPolicy`: two writers, two tables. `version` guards: of two autoscalers one
    writes.
    """

    deployment = models.OneToOneField(
        Deployment, primary_key=True, on_delete=models.CASCADE, related_name="scaler"
    )
    wanted_replicas = models.PositiveIntegerField()
    reason = models.TextField(default="")
    at_zero = models.BooleanField(default=False)
    """At zero because nobody asked for it; the first request brings it back."""
    memory = models.JSONField(default=dict)
    """`reconcile.scaling.values.State` as JSON."""
    start_seconds = models.FloatField(null=True)
    """p90 of this deployment's measured starts; None until one was measured."""
    version = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.deployment_id}: {self.wanted_replicas}"


class ScalingRecord(models.Model):
    """What the autoscaler saw of one deployment in one minute: enough to decide it all again."""

    id = models.BigAutoField(primary_key=True)
    deployment = models.ForeignKey(
        Deployment, on_delete=models.CASCADE, related_name="scaling_records"
    )
    start_at = models.DateTimeField()
    policy = models.JSONField()
    """`scaling.values.Policy` as JSON; a change of policy begins a new record."""
    state = models.JSONField()
    """`scaling.values.State` before the first tick, as JSON."""
    ticks = models.JSONField()
    """`[[at, wanted, observations], …]`, every two seconds."""

    class Meta:
        indexes = [
            models.Index(fields=["deployment", "start_at"], name="scaling_record_by_time"),
            models.Index(fields=["start_at"], name="scaling_record_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.start_at:%H:%M}"


class Rollout(models.Model):
    """One change of revision, from its order to its end. Kept as history."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="rollouts")
    live = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="+")
    """What served before, and serves again after a way back."""
    candidate = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="+")
    policy = models.JSONField()
    """`rollout_policy.RolloutPolicy` as it was when the rollout began."""
    state = models.CharField(max_length=16, default=RolloutState.OPEN)
    stage = models.CharField(max_length=16, default=RolloutStage.STARTING)
    stage_at = models.DateTimeField()
    progressed_at = models.DateTimeField()
    """When a candidate last became ready, or the stage began: the deadline counts from here."""
    most_ready = models.PositiveIntegerField(default=0)
    """The most candidates that were ready at once."""
    paused = models.BooleanField(default=False)
    live_served = models.BooleanField()
    """False if the live revision never got ready either: going back to it would help nobody."""
    looks = models.PositiveIntegerField(default=0)
    """How many of the looks at the evidence are done."""
    evidence = models.JSONField(default=dict)
    """`{"<revision>": verdict.Tally as JSON}` of the canary stage, and `shadow` of the copies."""
    verdict = models.JSONField(null=True)
    """The last `verdict.Verdict` as JSON."""
    reason = models.TextField(default="")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            _known("state", RolloutState, "rollout_state_known"),
            _known("stage", RolloutStage, "rollout_stage_known"),
            models.UniqueConstraint(
                fields=["deployment"],
                condition=models.Q(state=RolloutState.OPEN.value),
                name="one_open_rollout",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.stage} {self.state}"


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
    master_port = models.PositiveIntegerField(null=True)
    """Of a replica over several hosts (`members`): where they meet on the host of the head."""
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
    nap = models.JSONField(null=True)
    """`agents.wire.Nap` as JSON: the sleep it is in, or its last one, as measured."""
    progress = models.JSONField(null=True)
    """`agents.wire.Progress` as JSON while it comes up."""
    endpoint = models.JSONField(null=True)
    """`agents.wire.Endpoint` as JSON while it is up."""
    runtime = models.CharField(max_length=16, default="")
    runtime_ref = models.CharField(max_length=80, default="")
    engine_version = models.CharField(max_length=40, default="")
    kv_cache_tokens = models.PositiveBigIntegerField(null=True)
    restarts = models.PositiveIntegerField(default=0)
    answers = models.JSONField(null=True)
    """`agents.answers.Answers` as JSON: what it showed before it took traffic."""
    engine_memory = models.JSONField(default=dict)
    """What the engine said of its memory at its start, by part as in `apps.catalog.learned`."""

    class Meta:
        constraints = [
            _known("phase", ReplicaPhase, "replica_phase_known"),
            _known("desired", DesiredReplica, "replica_desired_known"),
        ]
        indexes = [models.Index(fields=["deployment", "phase"], name="replica_by_deployment")]

    def __str__(self) -> str:
        return f"{self.id} {self.phase}"

    @property
    def is_group(self) -> bool:
        """Return whether it was placed over several hosts."""
        return self.master_port is not None


class Booking(models.Model):
    """Bytes of one GPU, or of a host's memory, of a replica. Written by `bookings` alone."""

    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="bookings")
    capacity = models.ForeignKey(Capacity, on_delete=models.CASCADE, related_name="bookings")
    bytes = models.PositiveBigIntegerField()
    whole = models.BooleanField(default=False)
    """The GPU is this replica's alone while it is awake."""
    asleep = models.BooleanField(default=False)
    """Only what a sleeping engine keeps is booked; others may use the rest."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["replica", "capacity"], name="booking_once_per_device")
        ]

    def __str__(self) -> str:
        return f"{self.bytes} bytes for {self.replica_id}"


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
