"""The shapes of scaling in the API. Part of `serializers`."""

from typing import Any

from rest_framework import serializers

from apps.deployments.orders import MAX_REPLICAS
from apps.deployments.states import ScalingProfile, ScalingRule
from apps.lib.strict import StrictSerializer

PROFILES = [(profile.value, profile.value) for profile in ScalingProfile]
RULES = [(rule.value, rule.value) for rule in ScalingRule]


class ScheduleWindow(StrictSerializer):
    """Bounds that hold for `duration_seconds` from each firing of `cron`."""

    cron = serializers.CharField(
        max_length=120, help_text="Minute, hour, day of month, month, day of week: `0 8 * * 1-5`."
    )
    timezone = serializers.CharField(max_length=64, required=False, help_text="`UTC` if not given.")
    duration_seconds = serializers.IntegerField(min_value=60, max_value=604_800)
    min_replicas = serializers.IntegerField(
        min_value=0, max_value=MAX_REPLICAS, required=False, allow_null=True
    )
    max_replicas = serializers.IntegerField(
        min_value=0, max_value=MAX_REPLICAS, required=False, allow_null=True
    )


class ScalingInput(StrictSerializer):
    min_replicas = serializers.IntegerField(
        min_value=0, max_value=MAX_REPLICAS, required=False, help_text="Replicas to run."
    )
    max_replicas = serializers.IntegerField(min_value=0, max_value=MAX_REPLICAS, required=False)
    target_concurrency = serializers.IntegerField(
        min_value=1, max_value=100_000, required=False, help_text="Requests in flight per replica."
    )
    asleep_replicas = serializers.IntegerField(
        min_value=0,
        max_value=MAX_REPLICAS,
        required=False,
        help_text="Replicas kept asleep beyond those that serve.",
    )
    cached_replicas = serializers.IntegerField(
        min_value=0,
        max_value=MAX_REPLICAS,
        required=False,
        help_text="Hosts kept with image, weights and compile caches beyond those.",
    )
    asleep_ttl_seconds = serializers.IntegerField(
        min_value=0,
        max_value=7_776_000,
        required=False,
        help_text="Without use for so long the sleepers go too; 0 keeps them for ever.",
    )
    shares_pool = serializers.BooleanField(
        required=False,
        help_text="May hold a slot of the shared pool of its kind of GPU beyond its own sleepers.",
    )
    profile = serializers.ChoiceField(
        choices=PROFILES, required=False, help_text="How much is kept ready for what may come."
    )
    rule = serializers.ChoiceField(
        choices=RULES, required=False, help_text="What computes the need; `hearth` unless given."
    )
    scale_to_zero_after_seconds = serializers.IntegerField(
        min_value=10,
        max_value=604_800,
        required=False,
        help_text="With `min_replicas` 0: how long without a request until nothing is kept hot.",
    )
    hold_seconds = serializers.IntegerField(
        min_value=0,
        max_value=3600,
        required=False,
        help_text="What was needed within so long is kept.",
    )
    schedule = ScheduleWindow(
        many=True, required=False, help_text="Bounds by the clock; `[]` takes them away."
    )
    gpu_budget = serializers.IntegerField(
        min_value=0,
        max_value=100_000,
        required=False,
        help_text="GPUs that all replicas may hold together; 0 is no limit.",
    )
    ttft_target_seconds = serializers.FloatField(
        min_value=0,
        max_value=3600,
        required=False,
        help_text="One replica more while the p95 of a minute is above it; 0 is none.",
    )


class ScalingOutput(serializers.Serializer[Any]):
    min_replicas = serializers.IntegerField()
    max_replicas = serializers.IntegerField()
    target_concurrency = serializers.IntegerField()
    asleep_replicas = serializers.IntegerField()
    cached_replicas = serializers.IntegerField()
    asleep_ttl_seconds = serializers.IntegerField()
    shares_pool = serializers.BooleanField()
    profile = serializers.ChoiceField(choices=PROFILES)
    rule = serializers.ChoiceField(choices=RULES)
    scale_to_zero_after_seconds = serializers.IntegerField()
    hold_seconds = serializers.IntegerField()
    schedule = ScheduleWindow(many=True)
    gpu_budget = serializers.IntegerField(allow_null=True)
    ttft_target_seconds = serializers.FloatField(allow_null=True)
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="What is allowed but hardly meant."
    )
