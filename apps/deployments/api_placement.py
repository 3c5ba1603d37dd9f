"""Where a deployment's replicas are, over REST: bookings, decisions, predicted and measured."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments import placements, queries
from apps.deployments.api import NAME
from apps.deployments.models import Deployment
from apps.deployments.serializers import REPLICA_PHASES, DecisionOutput


class HoldingOutput(serializers.Serializer[Any]):
    replica = serializers.UUIDField()
    phase = serializers.ChoiceField(choices=REPLICA_PHASES)
    host = serializers.CharField()
    gpu_uuids = serializers.ListField(child=serializers.CharField())
    bytes_each = serializers.IntegerField(help_text="Of each GPU, or of the host's memory.")
    whole = serializers.BooleanField(help_text="The GPUs are this replica's alone.")
    asleep = serializers.BooleanField(help_text="Only what it keeps while it sleeps is booked.")


class PartOutput(serializers.Serializer[Any]):
    part = serializers.CharField(help_text="`weights_bytes`, `kv_bytes`, `kv_tokens`, …")
    predicted = serializers.IntegerField()
    measured = serializers.IntegerField(help_text="As the engine said at its start.")
    error_ratio = serializers.FloatField(help_text="Of the measured; above 0 when too high.")
    is_wrong = serializers.BooleanField(help_text="Off by more than a tenth.")


class MeasuredOutput(serializers.Serializer[Any]):
    variant = serializers.CharField()
    device_kind = serializers.CharField(help_text="`cpu`, or a kind of GPU as `h100`.")
    engine_version = serializers.CharField()
    measured_at = serializers.DateTimeField(help_text="The newest start with these settings.")
    starts = serializers.IntegerField()
    is_wrong = serializers.BooleanField()
    parts = PartOutput(many=True)


class PlacementOutput(serializers.Serializer[Any]):
    replicas = HoldingOutput(source="holdings", many=True)
    decisions = DecisionOutput(many=True, help_text="Placements, the newest first; at most 20.")
    predicted = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="By part: what the newest revision was ordered with.",
    )
    measured = MeasuredOutput(
        many=True, help_text="Starts of this model in any deployment, the newest first."
    )


@extend_schema(parameters=[NAME])
class DeploymentPlacement(GenericAPIView[Deployment]):
    """Where the replicas of a deployment are and why, and how well its memory was predicted."""

    serializer_class = PlacementOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_placement")
    def get(self, request: Request, name: str) -> Response:
        return Response(PlacementOutput(placements.of_deployment(queries.get(name))).data)
