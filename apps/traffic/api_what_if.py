"""`deployments/{name}/what-if/`: recorded traffic against another scaling policy."""

from datetime import timedelta
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.deployments import queries as deployment_queries
from apps.deployments.orders import Scaling
from apps.deployments.reconcile.scaling.replay import Answer
from apps.deployments.scaling_shapes import ScalingInput
from apps.lib import clock
from apps.lib.strict import StrictSerializer
from apps.traffic import what_if
from apps.traffic.what_if import Comparison

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH)


class WhatIfInput(StrictSerializer):
    scaling = ScalingInput(help_text="The policy to try; what is not given is as it is.")
    window_seconds = serializers.IntegerField(
        min_value=60,
        max_value=86_400,
        default=86_400,
        help_text="How much of the recorded traffic, up to now.",
    )


class WhatIfStep(serializers.Serializer[Any]):
    at_seconds = serializers.FloatField(help_text="Since the window's start.")
    wanted_replicas = serializers.IntegerField()


class WhatIfAnswer(serializers.Serializer[Any]):
    """What one policy makes of the traffic; all of it simulated."""

    requests = serializers.IntegerField()
    late_ratio = serializers.FloatField(help_text="First token later than two seconds.")
    wait_p50_seconds = serializers.FloatField(help_text="At the gateway, for a slot.")
    wait_p95_seconds = serializers.FloatField()
    wait_p99_seconds = serializers.FloatField()
    starts = serializers.IntegerField(help_text="Cold starts.")
    waited_for_start = serializers.IntegerField(help_text="Requests that found nothing ready.")
    peak_replicas = serializers.IntegerField()
    replica_hours = serializers.FloatField()
    gpu_hours = serializers.FloatField(help_text="0 on CPU hosts.")
    cost_usd_a_day = serializers.FloatField(
        allow_null=True, help_text="Of 24 hours like this window; null without a price."
    )
    wanted = WhatIfStep(many=True)


class WhatIfOutput(serializers.Serializer[Any]):
    start_at = serializers.DateTimeField()
    end_at = serializers.DateTimeField()
    requests = serializers.IntegerField()
    shortened = serializers.BooleanField(help_text="More traffic than is replayed at once.")
    start_seconds = serializers.FloatField(help_text="What a start takes.")
    start_is_measured = serializers.BooleanField()
    estimated = serializers.BooleanField(help_text="Always true: this is a simulation.")
    old = WhatIfAnswer()
    new = WhatIfAnswer()


class DeploymentWhatIf(GenericAPIView[Any]):
    """The same traffic under the policy of now and under another one. Changes nothing."""

    serializer_class = WhatIfOutput
    pagination_class = None

    @extend_schema(
        operation_id="deployments_what_if",
        parameters=[_NAME],
        request=WhatIfInput,
        responses=WhatIfOutput,
    )
    def post(self, request: Request, name: str) -> Response:
        asked = WhatIfInput(data=request.data)
        asked.is_valid(raise_exception=True)
        given = asked.validated_data
        found = what_if.compare(
            deployment_queries.get(name),
            Scaling(**given["scaling"]),
            window=timedelta(seconds=given["window_seconds"]),
            now=clock.now(),
        )
        return Response(WhatIfOutput(_fields(found)).data)


def _fields(found: Comparison) -> dict[str, Any]:
    return {
        "start_at": found.start,
        "end_at": found.end,
        "requests": found.requests,
        "shortened": found.is_shortened,
        "start_seconds": found.start_seconds,
        "start_is_measured": found.is_measured,
        "estimated": True,
        "old": _answer(found, found.old),
        "new": _answer(found, found.new),
    }


def _answer(found: Comparison, answer: Answer) -> dict[str, Any]:
    plain = (
        "requests", "late_ratio", "wait_p50_seconds", "wait_p95_seconds", "wait_p99_seconds",
        "starts", "waited_for_start", "peak_replicas", "replica_hours",
    )  # fmt: skip
    return {
        **{name: getattr(answer, name) for name in plain},
        "gpu_hours": round(answer.replica_hours * found.gpus_per_replica, 3),
        "cost_usd_a_day": found.usd_a_day(answer),
        "wanted": [{"at_seconds": at, "wanted_replicas": n} for at, n in answer.steps],
    }
