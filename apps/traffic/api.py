"""API keys, model aliases, usage, and a deployment's metrics and cost over REST."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from itertools import batched
from typing import Any
from uuid import UUID

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts import exports
from apps.accounts.api import caller
from apps.accounts.exports import CsvRenderer
from apps.accounts.idempotency import IdempotentWrites
from apps.deployments.models import Deployment
from apps.lib import clock
from apps.lib.paging import Pages
from apps.lib.problems import Problem
from apps.lib.rendering import JsonRenderer
from apps.telemetry import live
from apps.telemetry import queries as telemetry
from apps.telemetry.numbers import Flow
from apps.traffic import actions, costs, queries, usage
from apps.traffic.actions import KeyLimits
from apps.traffic.models import ApiKey, ModelAlias, UsageRow
from apps.traffic.serializers import (
    AliasPatchSerializer,
    AliasSerializer,
    CostSerializer,
    KeyPatchSerializer,
    KeySerializer,
    MadeKeySerializer,
    MetricsSerializer,
    NewAliasSerializer,
    NewKeySerializer,
    UsageQuery,
    UsageRowSerializer,
    WindowQuery,
    bill_fields,
    series_fields,
    usage_row,
)
from apps.traffic.usage import Group, UsageFilter

USAGE_WINDOW = timedelta(days=30)
_ROWS_AT_ONCE = 500
"""Lines of a file that are made and sent together."""

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH)


class KeyList(IdempotentWrites, GenericAPIView[ApiKey]):
    """Keys with which clients use the gateway, newest first."""

    serializer_class = KeySerializer
    pagination_class = Pages

    @extend_schema(operation_id="api_keys_list", responses=KeySerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(queries.api_keys()) or []
        return self.get_paginated_response(_keys(page))

    @extend_schema(
        operation_id="api_keys_create",
        request=NewKeySerializer,
        responses={201: MadeKeySerializer},
    )
    def post(self, request: Request) -> Response:
        """Make a key; `key` in the answer is its secret and is never shown again."""
        order = NewKeySerializer(data=request.data)
        order.is_valid(raise_exception=True)
        user = caller(request)
        key, secret = actions.create_key(
            name=order.validated_data["name"],
            owner=user,
            limits=order.limits_over(KeyLimits()),
            actor=user.username,
            now=clock.now(),
        )
        return Response({**_keys([key])[0], "key": secret}, status=201)


class KeyDetail(IdempotentWrites, GenericAPIView[ApiKey]):
    """One key, without its secret."""

    serializer_class = KeySerializer
    pagination_class = None

    @extend_schema(operation_id="api_keys_retrieve")
    def get(self, request: Request, key_id: UUID) -> Response:
        return Response(_keys([queries.api_key(key_id)])[0])

    @extend_schema(operation_id="api_keys_update", request=KeyPatchSerializer)
    def patch(self, request: Request, key_id: UUID) -> Response:
        """Change a key's name or limits; gateways follow within a second."""
        patch = KeyPatchSerializer(data=request.data)
        patch.is_valid(raise_exception=True)
        key = queries.api_key(key_id)
        changed = actions.change_key(
            key=key,
            name=patch.validated_data.get("name", key.name),
            limits=patch.limits_over(actions.limits_of(key)),
            actor=caller(request).username,
            now=clock.now(),
        )
        return Response(_keys([changed])[0])

    @extend_schema(operation_id="api_keys_delete", responses={204: None})
    def delete(self, request: Request, key_id: UUID) -> Response:
        """Revoke a key; it stays in the list for the record."""
        actions.revoke_key(
            key=queries.api_key(key_id), actor=caller(request).username, now=clock.now()
        )
        return Response(status=204)


def _keys(keys: Sequence[ApiKey]) -> list[Any]:
    spent = queries.spending([key.pk for key in keys], clock.now())
    return list(KeySerializer(keys, many=True, context={"spending": spent}).data)


class AliasList(IdempotentWrites, GenericAPIView[ModelAlias]):
    """Other public names of deployments, by name."""

    serializer_class = AliasSerializer
    pagination_class = Pages

    @extend_schema(operation_id="model_aliases_list", responses=AliasSerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(queries.aliases())
        return self.get_paginated_response(AliasSerializer(page, many=True).data)

    @extend_schema(
        operation_id="model_aliases_create",
        request=NewAliasSerializer,
        responses={201: AliasSerializer},
    )
    def post(self, request: Request) -> Response:
        """Make an alias; it works when this is answered."""
        order = NewAliasSerializer(data=request.data)
        order.is_valid(raise_exception=True)
        alias = actions.create_alias(
            **order.validated_data, actor=caller(request).username, now=clock.now()
        )
        return Response(AliasSerializer(alias).data, status=201)


class AliasDetail(IdempotentWrites, GenericAPIView[ModelAlias]):
    """One alias."""

    serializer_class = AliasSerializer
    pagination_class = None

    @extend_schema(operation_id="model_aliases_retrieve")
    def get(self, request: Request, name: str) -> Response:
        return Response(AliasSerializer(queries.alias(name)).data)

    @extend_schema(operation_id="model_aliases_update", request=AliasPatchSerializer)
    def patch(self, request: Request, name: str) -> Response:
        """Lead the alias to another deployment; requests under way end where they are."""
        patch = AliasPatchSerializer(data=request.data)
        patch.is_valid(raise_exception=True)
        alias = actions.point_alias(
            alias=queries.alias(name), **patch.validated_data, actor=caller(request).username
        )
        return Response(AliasSerializer(alias).data)

    @extend_schema(operation_id="model_aliases_delete", responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        actions.delete_alias(alias=queries.alias(name), actor=caller(request).username)
        return Response(status=204)


class UsageList(GenericAPIView[UsageRow]):
    """Requests, tokens and cost by group; `?format=csv` gives the whole list as a file."""

    serializer_class = UsageRowSerializer
    renderer_classes = [JsonRenderer, CsvRenderer]
    pagination_class = Pages

    @extend_schema(
        operation_id="usage_list",
        parameters=[UsageQuery],
        responses=UsageRowSerializer(many=True),
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        query = UsageQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        group, which = _asked(dict(query.validated_data))
        rows = usage.grouped(group, which)
        if request.accepted_renderer.format == CsvRenderer.format:
            return exports.csv_file(
                "usage.csv",
                list(UsageRowSerializer().fields),
                (_usage_rows(group, part) for part in batched(rows, _ROWS_AT_ONCE)),
            )
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(_usage_rows(group, page))


def _asked(sent: dict[str, Any]) -> tuple[Group, UsageFilter]:
    until, now = sent.pop("until", None), clock.now()
    until = None if until is not None and until > now else until
    since = sent.pop("since", None) or (until or now) - USAGE_WINDOW
    if since >= (until or now):
        raise Problem(400, "invalid", "from: must lie before `to`.", extra={"field": "from"})
    return Group(sent.pop("group_by")), UsageFilter(since=since, until=until, **sent)


def _usage_rows(group: Group, rows: Sequence[Any]) -> list[dict[str, Any]]:
    values = [row["value"] for row in rows if row["value"] is not None]
    names = usage.key_names(values) if group is Group.KEY else {}
    return [usage_row(row, names) for row in rows]


@extend_schema(parameters=[_NAME, WindowQuery])
class DeploymentMetrics(GenericAPIView[Deployment]):
    """What a deployment does now, and what it did in a window."""

    serializer_class = MetricsSerializer
    pagination_class = None

    @extend_schema(operation_id="deployments_metrics")
    def get(self, request: Request, name: str) -> Response:
        seconds = _window_seconds(request)
        queries.check_deployment(name)
        numbers = live.numbers()
        body = {
            "window_seconds": seconds,
            "stale": numbers.stale,
            "live": asdict(numbers.deployments.get(name, Flow())),
            **series_fields(telemetry.series(name, seconds, clock.now())),
        }
        return Response(MetricsSerializer(body).data)


@extend_schema(parameters=[_NAME, WindowQuery])
class DeploymentCost(GenericAPIView[Deployment]):
    """What a deployment cost in a window, on both bases, and what the money went to."""

    serializer_class = CostSerializer
    pagination_class = None

    @extend_schema(operation_id="deployments_cost")
    def get(self, request: Request, name: str) -> Response:
        seconds = _window_seconds(request)
        queries.check_deployment(name)
        end = clock.now()
        start = end - timedelta(seconds=seconds)
        body = {
            "window_seconds": seconds,
            "start_at": start,
            "end_at": end,
            **bill_fields(costs.bill_of(name, start, end)),
        }
        return Response(CostSerializer(body).data)


def _window_seconds(request: Request) -> int:
    query: serializers.Serializer[Any] = WindowQuery(data=request.query_params)
    query.is_valid(raise_exception=True)
    return telemetry.window_seconds(query.validated_data["window"])
