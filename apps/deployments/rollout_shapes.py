"""The shapes of rollouts in the API. Part of `serializers`."""

from typing import Any

from rest_framework import serializers

from apps.catalog.entry import Device
from apps.deployments.states import RolloutStage, RolloutState, RolloutStrategy
from apps.lib.strict import StrictSerializer

_DEVICES = [(device.value, device.value) for device in Device]
STRATEGIES = [(one.value, one.value) for one in RolloutStrategy]
STAGES = [(one.value, one.value) for one in RolloutStage]
STATES = [(one.value, one.value) for one in RolloutState]


class CanaryInput(StrictSerializer):
    weight_ratio = serializers.FloatField(
        min_value=0, max_value=1, required=False, help_text="Share of the requests; 0.1 if not set."
    )
    keys = serializers.ListField(
        child=serializers.CharField(max_length=63),
        required=False,
        help_text="Ids of API keys whose requests all go to the candidate.",
    )
    min_requests = serializers.IntegerField(
        min_value=20, max_value=1_000_000, required=False, help_text="For the final verdict; 200."
    )
    max_seconds = serializers.IntegerField(
        min_value=10,
        max_value=604_800,
        required=False,
        help_text="Without enough requests after this it pauses for a person; 3600.",
    )
    max_error_increase_ratio = serializers.FloatField(
        min_value=0, max_value=1, required=False, help_text="More failed requests than live; 0.01."
    )
    max_ttft_ratio = serializers.FloatField(
        min_value=1,
        max_value=100,
        required=False,
        help_text="Time to first token over live's; 1.2.",
    )
    max_itl_ratio = serializers.FloatField(
        min_value=1,
        max_value=100,
        required=False,
        help_text="Time between tokens over live's; 1.2.",
    )
    max_cost_ratio = serializers.FloatField(
        min_value=1, max_value=100, required=False, help_text="Cost per token over live's; 1.2."
    )
    auto_promote = serializers.BooleanField(
        required=False, help_text="False: a passed verdict waits for `promote/`."
    )


class RolloutInput(StrictSerializer):
    strategy = serializers.ChoiceField(choices=STRATEGIES, required=False)
    max_surge = serializers.IntegerField(
        min_value=0, max_value=1000, required=False, help_text="Replicas above the number; 1."
    )
    max_unavailable = serializers.IntegerField(
        min_value=0, max_value=1000, required=False, help_text="Replicas below the number; 0."
    )
    ready_seconds = serializers.IntegerField(
        min_value=10,
        max_value=86_400,
        required=False,
        help_text="Without another replica ready for so long it is rolled back; 1800.",
    )
    max_failures = serializers.IntegerField(
        min_value=1, max_value=100, required=False, help_text="In a row, then it is rolled back; 3."
    )
    auto_rollback = serializers.BooleanField(
        required=False, help_text="False: pause and wait for a person instead."
    )
    shadow_ratio = serializers.FloatField(
        min_value=0,
        max_value=1,
        required=False,
        help_text="Of the requests, copied to the candidate before it serves any; 0.",
    )
    shadow_seconds = serializers.IntegerField(min_value=1, max_value=86_400, required=False)
    keep_seconds = serializers.IntegerField(
        min_value=0,
        max_value=86_400,
        required=False,
        help_text="Blue/green: how long the old replicas stay after the flip; 60.",
    )
    canary = CanaryInput(required=False)


class CanaryOutput(serializers.Serializer[Any]):
    weight_ratio = serializers.FloatField()
    keys = serializers.ListField(child=serializers.CharField())
    min_requests = serializers.IntegerField()
    max_seconds = serializers.IntegerField()
    max_error_increase_ratio = serializers.FloatField()
    max_ttft_ratio = serializers.FloatField()
    max_itl_ratio = serializers.FloatField()
    max_cost_ratio = serializers.FloatField()
    auto_promote = serializers.BooleanField()


class RolloutOutput(serializers.Serializer[Any]):
    strategy = serializers.ChoiceField(choices=STRATEGIES)
    max_surge = serializers.IntegerField()
    max_unavailable = serializers.IntegerField()
    ready_seconds = serializers.IntegerField()
    max_failures = serializers.IntegerField()
    auto_rollback = serializers.BooleanField()
    shadow_ratio = serializers.FloatField()
    shadow_seconds = serializers.IntegerField()
    keep_seconds = serializers.IntegerField()
    canary = CanaryOutput()


class DifferenceShape(serializers.Serializer[Any]):
    field = serializers.CharField()
    old = serializers.JSONField(allow_null=True)
    new = serializers.JSONField(allow_null=True)


class ShareOutput(serializers.Serializer[Any]):
    revision = serializers.IntegerField()
    weight_ratio = serializers.FloatField()
    keys = serializers.ListField(child=serializers.CharField())


class EvidenceOutput(serializers.Serializer[Any]):
    requests = serializers.IntegerField()
    failed = serializers.IntegerField()
    ttft_p50_seconds = serializers.FloatField(allow_null=True)
    itl_p50_seconds = serializers.FloatField(allow_null=True)
    usd_per_million_tokens_p50 = serializers.FloatField(allow_null=True)


class MeasureOutput(serializers.Serializer[Any]):
    name = serializers.ChoiceField(choices=[(m, m) for m in ("errors", "ttft", "itl", "cost")])
    live = serializers.FloatField(allow_null=True)
    candidate = serializers.FloatField(allow_null=True)
    live_samples = serializers.IntegerField()
    candidate_samples = serializers.IntegerField()
    limit = serializers.FloatField()
    p_value = serializers.FloatField(allow_null=True)
    is_worse = serializers.BooleanField()


class VerdictOutput(serializers.Serializer[Any]):
    look = serializers.IntegerField(help_text="1 to 3: at a quarter, half, all of the requests.")
    is_last = serializers.BooleanField()
    is_worse = serializers.BooleanField()
    has_passed = serializers.BooleanField()
    says = serializers.CharField()
    measures = MeasureOutput(many=True)


class RollingOutput(serializers.Serializer[Any]):
    """A rollout: the open one, or one of the past."""

    state = serializers.ChoiceField(choices=STATES)
    strategy = serializers.ChoiceField(choices=STRATEGIES)
    stage = serializers.ChoiceField(choices=STAGES)
    stage_at = serializers.DateTimeField()
    live = serializers.IntegerField(help_text="Number of the revision to go back to.")
    candidate = serializers.IntegerField()
    paused = serializers.BooleanField()
    reason = serializers.CharField(help_text="Why it is paused, or how it ended.")
    shares = ShareOutput(many=True, help_text="Empty: all ready replicas are alike.")
    shadow_ratio = serializers.FloatField()
    min_requests = serializers.IntegerField(help_text="That the final verdict needs.")
    live_evidence = EvidenceOutput()
    candidate_evidence = EvidenceOutput()
    shadow_evidence = EvidenceOutput()
    verdict = VerdictOutput(allow_null=True)
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    closed_at = serializers.DateTimeField(allow_null=True)


class RollbackInput(StrictSerializer):
    revision = serializers.IntegerField(
        min_value=1,
        required=False,
        help_text="Number of an earlier revision; the one that was live before if not given.",
    )


class RevisionOutput(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    live = serializers.BooleanField(help_text="A ready replica runs it.")
    state = serializers.ChoiceField(
        choices=[(word, word) for word in ("live", "candidate", "rolled_back", "past")]
    )
    changes = DifferenceShape(
        many=True, help_text="Against the revision that was to serve when it was ordered."
    )
    variant = serializers.CharField()
    device = serializers.ChoiceField(choices=_DEVICES)
    engine = serializers.DictField(help_text="`kind`, and what was set over the catalog's.")
    settings = serializers.DictField(help_text="Complete engine settings.")
    need = serializers.DictField(help_text="Estimated memory of a replica.")
    sleep_fault = serializers.CharField(help_text="Why its engine cannot sleep, as measured.")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()


class TakeoverOutput(serializers.Serializer[Any]):
    strategy = serializers.ChoiceField(choices=STRATEGIES)
    in_place = serializers.BooleanField(
        help_text="No room for a replica beside those that serve: one leaves before one comes."
    )
    says = serializers.CharField()
