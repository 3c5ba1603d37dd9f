"""The shapes of deployments in the API: what may come in, and (for the schema) what goes out.

What goes out is built by `presenting`, as plain dictionaries: DRF's serializers would take most of
the time of a long list.
"""

from typing import Any

from rest_framework import serializers

from agents.wire import Task
from apps.deployments.models import Decision, Event
from apps.deployments.orders import (
    Change,
    NewDeployment,
    PlacementWish,
    Resources,
    Scaling,
)
from apps.deployments.placement_shapes import (
    DEVICES,
    FirstReplicaOutput,
    HostFitOutput,
    HostGroupOutput,
    PlacementInput,
    ResourcesInput,
)
from apps.deployments.rollout_shapes import (
    RollingOutput,
    RolloutInput,
    RolloutOutput,
    TakeoverOutput,
)
from apps.deployments.scaling_shapes import ScalingInput, ScalingOutput
from apps.deployments.states import (
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
)
from apps.lib.strict import StrictSerializer

TASKS = [(task.value, task.value) for task in Task]
DEPLOYMENT_PHASES = [(phase.value, phase.value) for phase in DeploymentPhase]
REPLICA_PHASES = [(phase.value, phase.value) for phase in ReplicaPhase]
SEVERITIES = [(word, word) for word in ("info", "warning", "error")]

LOG_LINES_LIMIT = 2000

RESERVED_NAMES = frozenset({"plan"})
"""`deployments/plan/` is no deployment."""


# --- In ------------------------------------------------------------------------------------------


class OrderInput(StrictSerializer):
    """`{"catalog": "<slug>"}` alone is a whole order."""

    catalog = serializers.CharField(max_length=200, help_text="Slug of the catalog entry.")
    name = serializers.CharField(
        required=False,
        allow_null=True,
        max_length=200,
        help_text="Name of the deployment and of its model at the gateway; the slug if not given.",
    )
    variant = serializers.CharField(
        required=False, allow_null=True, max_length=80, help_text="The best that fits if not given."
    )
    engine = serializers.DictField(
        required=False,
        help_text="Engine settings over those of the catalog, and `kind`: `vllm` or `simulator`.",
    )
    scaling = ScalingInput(required=False)
    resources = ResourcesInput(required=False)
    placement = PlacementInput(required=False)
    rollout = RolloutInput(required=False)

    def validate_name(self, name: str | None) -> str | None:
        """Return `name`. Raises ValidationError for a word that an address of the API needs."""
        if name in RESERVED_NAMES:
            raise serializers.ValidationError(f"`{name}` is an address of the API; choose another.")
        return name

    def order(self, *, by_admin: bool = False) -> NewDeployment:
        """Return the validated input as an order."""
        given = self.validated_data
        return NewDeployment(
            catalog=given["catalog"],
            name=given.get("name"),
            variant=given.get("variant"),
            engine=given.get("engine", {}),
            scaling=Scaling(**given.get("scaling", {})),
            resources=Resources(**given.get("resources", {})),
            placement=PlacementWish(**given.get("placement", {})),
            rollout=given.get("rollout", {}),
            by_admin=by_admin,
        )


class ChangeInput(StrictSerializer):
    """What is not given stays. New engine settings make a new revision; scaling does not."""

    variant = serializers.CharField(required=False, max_length=80)
    engine = serializers.DictField(required=False, help_text="Replaces all engine settings.")
    scaling = ScalingInput(required=False)
    rollout = RolloutInput(required=False)
    placement = PlacementInput(required=False)
    resources = ResourcesInput(required=False)
    generation = serializers.IntegerField(
        min_value=1,
        required=False,
        help_text="The one that was read; 409 with what changed when it is no longer the newest.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return `attrs`. Raises ValidationError when there is nothing to change."""
        if not attrs.keys() - {"generation"}:
            raise serializers.ValidationError(
                "Give variant, engine, scaling, rollout, placement or resources."
            )
        return attrs

    def change(self, if_generation: int | None, *, by_admin: bool = False) -> Change:
        """Return the validated input as a change."""
        given = self.validated_data
        scaling, placement = given.get("scaling"), given.get("placement")
        resources = given.get("resources")
        return Change(
            variant=given.get("variant"),
            engine=given.get("engine"),
            scaling=None if scaling is None else Scaling(**scaling),
            rollout=given.get("rollout"),
            placement=None if placement is None else PlacementWish(**placement),
            resources=None if resources is None else Resources(**resources),
            if_generation=given.get("generation") if if_generation is None else if_generation,
            conflict_status=409 if if_generation is None else 412,
            by_admin=by_admin,
        )


class ListQuery(serializers.Serializer[Any]):
    phase = serializers.ChoiceField(choices=DEPLOYMENT_PHASES, required=False)
    q = serializers.CharField(required=False, help_text="Part of the name or catalog slug.")
    ordering = serializers.ChoiceField(
        choices=[(o, o) for o in ("name", "-name", "created_at", "-created_at", "phase", "-phase")],
        required=False,
    )


class EventQuery(serializers.Serializer[Any]):
    kind = serializers.CharField(required=False, help_text="`replica.failed`, or `replica` alone.")
    severity = serializers.ChoiceField(choices=SEVERITIES, required=False)


class FleetEventQuery(EventQuery):
    host = serializers.CharField(required=False)
    deployment = serializers.CharField(required=False)


class ReplicaQuery(serializers.Serializer[Any]):
    stopped = serializers.BooleanField(default=False, help_text="Also those that are gone.")


class LogQuery(serializers.Serializer[Any]):
    replica = serializers.CharField(
        required=False, help_text="Id, or its beginning; the newest replica if not given."
    )
    lines = serializers.IntegerField(min_value=1, max_value=LOG_LINES_LIMIT, default=200)


# --- Out -----------------------------------------------------------------------------------------


class ProgressOutput(serializers.Serializer[Any]):
    phase = serializers.ChoiceField(choices=REPLICA_PHASES)
    stage = serializers.CharField(help_text="`weights`, `load`, `compile`, …; empty between them.")
    ratio = serializers.FloatField(allow_null=True, help_text="Of this stage, 0 to 1.")
    eta_seconds = serializers.FloatField(allow_null=True, help_text="To ready; an estimate.")
    stage_seconds = serializers.DictField(child=serializers.FloatField())
    replica = serializers.UUIDField()


class LiveOutput(serializers.Serializer[Any]):
    """The last seconds, as gateways and engines counted them."""

    stale = serializers.BooleanField(help_text="The store of live numbers did not answer.")
    in_flight = serializers.IntegerField()
    queued = serializers.IntegerField()
    requests_per_second = serializers.FloatField()
    tokens_per_second = serializers.FloatField(help_text="Output tokens.")
    ttft_p50_seconds = serializers.FloatField(allow_null=True)
    ttft_p95_seconds = serializers.FloatField(allow_null=True)
    prefix_cache_hit_ratio = serializers.FloatField(allow_null=True)


class DeploymentOutput(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    catalog = serializers.CharField()
    task = serializers.ChoiceField(choices=TASKS)
    variant = serializers.CharField()
    engine = serializers.DictField(help_text="`kind`, and what was set over the catalog's.")
    simulated = serializers.BooleanField(help_text="No real model answers.")
    desired = serializers.ChoiceField(choices=[(d.value, d.value) for d in DesiredDeployment])
    phase = serializers.ChoiceField(choices=DEPLOYMENT_PHASES)
    reason = serializers.CharField()
    revision = serializers.IntegerField(help_text="The one that serves.")
    newest_revision = serializers.IntegerField()
    ready_replicas = serializers.IntegerField()
    wanted_replicas = serializers.IntegerField()
    progress = ProgressOutput(allow_null=True)
    scaling = ScalingOutput()
    rollout = RolloutOutput(help_text="How changes take over.")
    rolling = RollingOutput(allow_null=True, help_text="The change that is under way.")
    owner = serializers.CharField(help_text="The set of files it is kept in; empty: made by hand.")
    resources = serializers.DictField()
    placement = serializers.DictField()
    endpoint = serializers.CharField(help_text="Base URL for OpenAI clients; `model` is the name.")
    live = LiveOutput()
    generation = serializers.IntegerField(help_text="Counts changes; also the ETag.")
    observed_generation = serializers.IntegerField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    changed_at = serializers.DateTimeField(help_text="When its phase or reason last changed.")


class MemberOutput(serializers.Serializer[Any]):
    rank = serializers.IntegerField(help_text="0 is the head: it alone serves.")
    host = serializers.CharField()
    gpu_uuids = serializers.ListField(child=serializers.CharField())
    phase = serializers.ChoiceField(choices=REPLICA_PHASES)
    phase_at = serializers.DateTimeField()
    reason = serializers.CharField()
    code = serializers.CharField(help_text="Stable word for the reason.")
    log_tail = serializers.ListField(
        child=serializers.CharField(), help_text="Last lines of a member that failed."
    )


class ReplicaOutput(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    revision = serializers.IntegerField()
    host = serializers.CharField(allow_null=True, help_text="Of several, the one that serves.")
    members = MemberOutput(
        many=True, help_text="Of a replica over several hosts, by rank; else empty."
    )
    phase = serializers.ChoiceField(choices=REPLICA_PHASES)
    phase_at = serializers.DateTimeField()
    desired = serializers.ChoiceField(choices=[(d.value, d.value) for d in DesiredReplica])
    reason = serializers.CharField()
    code = serializers.CharField(help_text="Stable word for the reason.")
    exit_code = serializers.IntegerField(allow_null=True)
    log_tail = serializers.ListField(
        child=serializers.CharField(), help_text="Last lines of a replica that failed."
    )
    failures = serializers.IntegerField(help_text="In a row.")
    retry_at = serializers.DateTimeField(allow_null=True)
    restarts = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    ready_at = serializers.DateTimeField(allow_null=True)
    stage_seconds = serializers.DictField(child=serializers.FloatField())
    progress = serializers.DictField(allow_null=True)
    gpu_uuids = serializers.ListField(child=serializers.CharField())
    memory_bytes = serializers.IntegerField(help_text="Reserved; of each GPU, or of the host.")
    runtime = serializers.CharField()
    runtime_ref = serializers.CharField(help_text="Container or process id.")
    engine_version = serializers.CharField()
    kv_cache_tokens = serializers.IntegerField(allow_null=True)
    answers = serializers.DictField(allow_null=True, help_text="The first ones: `perplexity`, …")
    nap = serializers.DictField(allow_null=True, help_text="Its sleep as measured.")
    live = serializers.DictField(help_text="`running`, `waiting`, `kv_cache_usage_ratio`, …")


class EventOutput(serializers.ModelSerializer[Event]):
    severity = serializers.ChoiceField(choices=SEVERITIES)

    class Meta:
        model = Event
        fields = [
            "id", "at", "kind", "severity", "actor", "deployment", "replica", "host", "message",
            "data",
        ]  # fmt: skip


class DecisionOutput(serializers.ModelSerializer[Decision]):
    class Meta:
        model = Decision
        fields = ["id", "created_at", "kind", "reason", "inputs"]


class LogOutput(serializers.Serializer[Any]):
    replica = serializers.UUIDField()
    lines = serializers.ListField(child=serializers.CharField())
    read_from = serializers.ChoiceField(
        choices=[("host", "host"), ("last_report", "last_report")],
        help_text="Read on the host now, or what was kept when the replica failed.",
    )


class DifferenceOutput(serializers.Serializer[Any]):
    field = serializers.CharField()
    live = serializers.JSONField(allow_null=True)
    planned = serializers.JSONField(allow_null=True)


class PlanOutput(serializers.Serializer[Any]):
    fits = serializers.BooleanField()
    catalog = serializers.CharField()
    name = serializers.CharField(help_text="The name that the deployment would get.")
    variant = serializers.CharField()
    device = serializers.ChoiceField(choices=DEVICES)
    simulated = serializers.BooleanField()
    reason = serializers.CharField(help_text="Why this variant and device.")
    engine = serializers.DictField(help_text="Complete engine settings.")
    need = serializers.DictField(help_text="Estimated memory of a replica.")
    hosts = HostFitOutput(many=True)
    first_replica = FirstReplicaOutput(help_text="What placement would do with it now.")
    group = HostGroupOutput(
        allow_null=True,
        help_text="When no host fits alone: hosts that hold it together.",
    )
    cost_per_hour_usd = serializers.FloatField(
        allow_null=True, help_text="Of all wanted replicas, at the first host that fits."
    )
    differences = DifferenceOutput(
        many=True, help_text="Against what the deployment of that name is to run."
    )
    takeover = TakeoverOutput(
        allow_null=True, help_text="How it would take over from what serves under that name."
    )
