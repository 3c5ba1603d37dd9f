"""The shapes of an order's place and of a host's answer to it, in the API."""

from typing import Any

from rest_framework import serializers

from apps.catalog.entry import Device
from apps.lib.strict import StrictSerializer

DEVICES = [(device.value, device.value) for device in Device]


class ResourcesInput(StrictSerializer):
    memory_bytes = serializers.IntegerField(
        min_value=1,
        max_value=2**53,
        required=False,
        allow_null=True,
        help_text="Memory limit of a CPU replica; the estimate when not given.",
    )
    full_length_requests = serializers.IntegerField(
        min_value=1,
        max_value=4096,
        required=False,
        help_text="How many requests of full length the KV cache must hold at once; 1 by default.",
    )
    gpu_ratio = serializers.FloatField(
        min_value=0.05,
        max_value=0.95,
        required=False,
        allow_null=True,
        help_text="Fraction of one GPU for a replica; whole GPUs when not given.",
    )


class TolerationInput(StrictSerializer):
    key = serializers.CharField(max_length=63)
    value = serializers.CharField(max_length=63, required=False, help_text="Any, if not given.")


class PlacementInput(StrictSerializer):
    host = serializers.CharField(
        required=False, allow_blank=True, max_length=63, help_text="This host and no other."
    )
    labels = serializers.DictField(
        child=serializers.CharField(max_length=63),
        required=False,
        help_text="Only hosts with these labels.",
    )
    device = serializers.ChoiceField(choices=DEVICES, required=False, allow_blank=True)
    gpu_kind = serializers.CharField(
        max_length=80, required=False, allow_blank=True, help_text="As `h100`; any if not given."
    )
    tolerations = serializers.ListField(
        child=TolerationInput(),
        required=False,
        max_length=32,
        help_text="Taints of hosts that are accepted.",
    )
    strategy = serializers.ChoiceField(
        choices=[("spread", "spread"), ("binpack", "binpack")],
        required=False,
        help_text="Over many hosts (the default), or onto few.",
    )
    wait = serializers.BooleanField(
        required=False, help_text="Accept the order although nothing fits now, and wait for room."
    )


class RemedyOutput(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(
        choices=[
            (word, word)
            for word in (
                "host", "variant", "kv_cache_dtype", "tensor_parallel", "concurrency", "context",
            )
        ]
    )  # fmt: skip
    value = serializers.JSONField(help_text="A name or a number.")
    sentence = serializers.CharField()
    engine = serializers.DictField(help_text="The engine setting to change, where it is one.")


class HostFitOutput(serializers.Serializer[Any]):
    host = serializers.CharField()
    fits = serializers.BooleanField()
    variant = serializers.CharField()
    device = serializers.ChoiceField(choices=DEVICES)
    reason = serializers.CharField()
    reserve_bytes = serializers.IntegerField(help_text="What a replica would take here.")
    missing_bytes = serializers.IntegerField()
    remedies = RemedyOutput(
        many=True, help_text="Single changes after which it fits, the least painful first."
    )
    need = serializers.DictField(
        child=serializers.IntegerField(), help_text="Bytes by part, of each GPU or of the host."
    )
    learned = serializers.DictField(
        child=serializers.CharField(),
        help_text="Parts that are corrected by a measured start, and by which.",
    )
    gpus = serializers.IntegerField(help_text="GPUs a replica would take here.")
    kv_cache_tokens = serializers.IntegerField(help_text="Tokens its KV cache would hold here.")
    full_length_requests = serializers.IntegerField(
        help_text="Requests of full length that it would hold at once."
    )
    cost_per_hour_usd = serializers.FloatField(
        allow_null=True, help_text="Of one replica here: its share of the host's price."
    )
    price_is_default = serializers.BooleanField()


class CandidateOutput(serializers.Serializer[Any]):
    host = serializers.CharField()
    score = serializers.FloatField(help_text="The weighted sum of the terms.")
    terms = serializers.DictField(child=serializers.FloatField(), help_text="Each from 0 to 1.")


class SeatOutput(serializers.Serializer[Any]):
    rank = serializers.IntegerField(help_text="0 is the head: it alone serves.")
    host = serializers.CharField()
    gpu_uuids = serializers.ListField(child=serializers.CharField())


class FirstReplicaOutput(serializers.Serializer[Any]):
    host = serializers.CharField(help_text="Empty when it would wait for room.")
    gpu_uuids = serializers.ListField(child=serializers.CharField())
    members = SeatOutput(many=True, help_text="By rank; empty for a replica on one host.")
    reason = serializers.CharField()
    fitted = serializers.IntegerField(help_text="How many hosts fitted.")
    candidates = CandidateOutput(many=True, help_text="The best five, the chosen one first.")
    refused = serializers.DictField(
        child=serializers.CharField(), help_text="Why not, by host; of at most 50."
    )
    refused_hosts = serializers.IntegerField()


class HostGroupOutput(serializers.Serializer[Any]):
    hosts = serializers.ListField(child=serializers.CharField(), help_text="The roomiest first.")
    gpu_kind = serializers.CharField()
    gpus_each = serializers.IntegerField()
    variant = serializers.CharField()
    settings = serializers.DictField(help_text="Complete, with both ways of splitting.")
    reserve_bytes = serializers.IntegerField(help_text="Of each GPU.")
    reason = serializers.CharField()
