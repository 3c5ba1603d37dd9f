"""Starts and the warm pool over REST."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from agents.wire import Rung
from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.deployments import queries, starts, warmth
from apps.deployments.api import NAME
from apps.deployments.models import Decision, Start, WarmPool
from apps.deployments.warmth import Holder
from apps.lib import clock
from apps.lib.paging import Pages
from apps.lib.strict import StrictSerializer

RUNGS = [(rung.value, rung.value) for rung in Rung]


class StageOutput(serializers.Serializer[Any]):
    stage = serializers.CharField(help_text="`image`, `weights`, `load`, …, `first token`.")
    seconds = serializers.FloatField()
    bytes = serializers.IntegerField(allow_null=True)
    median_seconds = serializers.FloatField(
        allow_null=True, help_text="Of this model on this host from this rung."
    )


class StartOutput(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    replica = serializers.UUIDField()
    host = serializers.CharField()
    model = serializers.CharField()
    engine = serializers.CharField()
    engine_version = serializers.CharField()
    rung = serializers.ChoiceField(choices=RUNGS, help_text="From where it came to serve.")
    began_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField()
    seconds = serializers.FloatField(help_text="From the order to the first token.")
    stages = StageOutput(many=True)
    failure = serializers.CharField(help_text="Code of the failure; empty when it came up.")
    reason = serializers.CharField()


class SlotOutput(serializers.Serializer[Any]):
    deployment = serializers.CharField()
    replica = serializers.UUIDField()
    host = serializers.CharField(allow_null=True)
    gpu_kind = serializers.CharField()
    phase = serializers.CharField()
    since = serializers.DateTimeField()
    residual_bytes = serializers.IntegerField(help_text="Held, per device.")
    cost_per_hour_usd = serializers.FloatField(help_text="Price of what it keeps from others.")
    reason = serializers.CharField()


class SharedPoolOutput(serializers.Serializer[Any]):
    gpu_kind = serializers.CharField()
    slots = serializers.IntegerField()
    changed_at = serializers.DateTimeField()


class ClaimOutput(serializers.Serializer[Any]):
    deployment = serializers.CharField()
    replica = serializers.CharField()
    seconds = serializers.FloatField(help_text="Expected until it serves.")
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()


class HitRateOutput(serializers.Serializer[Any]):
    starts = serializers.IntegerField(help_text="In the last day.")
    by_rung = serializers.DictField(child=serializers.IntegerField())
    asleep_ratio = serializers.FloatField(allow_null=True, help_text="Of them, woken.")


class PoolOutput(serializers.Serializer[Any]):
    slots = SlotOutput(many=True)
    shared = SharedPoolOutput(many=True)
    claims = ClaimOutput(many=True)
    hit_rate = HitRateOutput()
    cost_per_hour_usd = serializers.FloatField()


class SlotsInput(StrictSerializer):
    slots = serializers.IntegerField(min_value=0, max_value=warmth.MAX_SLOTS)


def start_row(start: Start, medians: dict[str, float]) -> dict[str, Any]:
    """Return the JSON of a start beside the medians of its stages."""
    return {
        **{
            name: getattr(start, name)
            for name in (
                "id", "replica", "host", "model", "engine", "engine_version", "rung", "began_at",
                "ended_at", "seconds", "failure", "reason",
            )
        },
        "stages": [
            {**stage, "median_seconds": medians.get(stage["stage"])} for stage in start.stages
        ],
    }  # fmt: skip


def slot_row(holder: Holder) -> dict[str, Any]:
    """Return the JSON of a sleeper."""
    replica = holder.replica
    return {
        "deployment": replica.deployment.name,
        "replica": replica.pk,
        "host": replica.host.name if replica.host else None,
        "gpu_kind": holder.gpu_kind,
        "phase": replica.phase,
        "since": replica.phase_at,
        "residual_bytes": holder.residual_bytes,
        "cost_per_hour_usd": holder.cost_per_hour_usd,
        "reason": replica.reason,
    }


def claim_row(claim: Decision) -> dict[str, Any]:
    """Return the JSON of a decision to raise a sleeper."""
    return {
        "deployment": claim.deployment.name,
        "replica": claim.inputs.get("replica", ""),
        "seconds": claim.inputs.get("seconds", 0.0),
        "reason": claim.reason,
        "created_at": claim.created_at,
    }


@extend_schema(parameters=[NAME])
class StartList(GenericAPIView[Start]):
    """Every start of a deployment's replicas with its measured timeline, newest first."""

    serializer_class = StartOutput
    pagination_class = Pages

    @extend_schema(operation_id="deployments_starts", responses=StartOutput(many=True))
    def get(self, request: Request, name: str) -> Response:
        found = starts.of_deployment(queries.get(name))
        page = self.paginate_queryset(found) or []
        medians = starts.medians_of(page)
        rows = [start_row(one, medians[one.model, one.host, one.rung]) for one in page]
        return self.get_paginated_response(rows)


class Pool(GenericAPIView[WarmPool]):
    """The warm pool: who sleeps where, the last claims, what holding costs, how often it pays."""

    serializer_class = PoolOutput
    pagination_class = None

    @extend_schema(operation_id="pool", responses=PoolOutput)
    def get(self, request: Request) -> Response:
        held = warmth.holders()
        body = {
            "slots": [slot_row(holder) for holder in held],
            "shared": [SharedPoolOutput(pool).data for pool in warmth.pools()],
            "claims": [claim_row(claim) for claim in warmth.claims()],
            "hit_rate": warmth.hit_rate(clock.now()),
            "cost_per_hour_usd": round(sum(holder.cost_per_hour_usd for holder in held), 6),
        }
        return Response(body)


@extend_schema(parameters=[OpenApiParameter("gpu_kind", OpenApiTypes.STR, OpenApiParameter.PATH)])
class SharedPool(IdempotentWrites, GenericAPIView[WarmPool]):
    """How many sleepers the deployments that share the pool of one kind of GPU may keep."""

    serializer_class = SlotsInput
    pagination_class = None

    @extend_schema(operation_id="pool_set", request=SlotsInput, responses=SharedPoolOutput)
    def put(self, request: Request, gpu_kind: str) -> Response:
        given = SlotsInput(data=request.data)
        given.is_valid(raise_exception=True)
        pool = warmth.set_slots(
            gpu_kind,
            given.validated_data["slots"],
            actor=caller(request).username,
            now=clock.now(),
        )
        return Response(SharedPoolOutput(pool).data)
