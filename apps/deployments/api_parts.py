"""The parts of a deployment over REST: replicas, revisions, events, decisions, logs."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.accounts.states import Role
from apps.deployments import actions, hosts, logs, members, queries
from apps.deployments.api import NAME
from apps.deployments.models import Decision, Event, Replica
from apps.deployments.presenting import replica_row
from apps.deployments.serializers import (
    DecisionOutput,
    EventOutput,
    EventQuery,
    FleetEventQuery,
    LogOutput,
    LogQuery,
    ReplicaOutput,
    ReplicaQuery,
)
from apps.fleet import queries as fleet_queries
from apps.fleet.models import Host
from apps.fleet.serializers import HostSerializer, host_row
from apps.lib import clock
from apps.lib.paging import Pages
from apps.telemetry import live


@extend_schema(parameters=[NAME])
class ReplicaList(GenericAPIView[Replica]):
    """The replicas of a deployment, oldest first."""

    serializer_class = ReplicaOutput
    pagination_class = Pages

    @extend_schema(
        operation_id="deployments_replicas",
        parameters=[ReplicaQuery],
        responses=ReplicaOutput(many=True),
    )
    def get(self, request: Request, name: str) -> Response:
        query = ReplicaQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        found = queries.replicas_of(queries.get(name), stopped=query.validated_data["stopped"])
        page = self.paginate_queryset(found) or []
        numbers = live.numbers()
        parts = members.of(page)
        return self.get_paginated_response(
            [replica_row(replica, numbers, parts.get(replica.pk, ())) for replica in page]
        )


@extend_schema(
    parameters=[
        NAME,
        OpenApiParameter("replica_id", OpenApiTypes.STR, OpenApiParameter.PATH),
    ],
    request=None,
)
class ReplicaRestart(IdempotentWrites, GenericAPIView[Replica]):
    """Drain one replica and put a new one in its place."""

    serializer_class = ReplicaOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_replicas_restart", responses={202: ReplicaOutput})
    def post(self, request: Request, name: str, replica_id: str) -> Response:
        deployment = queries.get(name)
        replica = queries.replica(deployment, replica_id)
        actions.restart_replica(replica, actor=caller(request).username, now=clock.now())
        row = queries.replicas_of(deployment, stopped=True).get(pk=replica.pk)
        parts = members.of([row]).get(row.pk, ())
        return Response(replica_row(row, live.numbers(), parts), status=202)


@extend_schema(parameters=[NAME])
class DeploymentEvents(GenericAPIView[Event]):
    """What happened to a deployment, newest first."""

    serializer_class = EventOutput
    pagination_class = Pages

    @extend_schema(
        operation_id="deployments_events",
        parameters=[EventQuery],
        responses=EventOutput(many=True),
    )
    def get(self, request: Request, name: str) -> Response:
        query = EventQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        found = queries.events(deployment=queries.get(name).name, **query.validated_data)
        page = self.paginate_queryset(found)
        return self.get_paginated_response(EventOutput(page, many=True).data)


class EventList(GenericAPIView[Event]):
    """What happened anywhere, newest first."""

    serializer_class = EventOutput
    pagination_class = Pages

    @extend_schema(
        operation_id="events_list",
        parameters=[FleetEventQuery],
        responses=EventOutput(many=True),
    )
    def get(self, request: Request) -> Response:
        query = FleetEventQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        page = self.paginate_queryset(queries.events(**query.validated_data))
        return self.get_paginated_response(EventOutput(page, many=True).data)


@extend_schema(parameters=[NAME])
class DecisionList(GenericAPIView[Decision]):
    """Why placement and the choice of a variant did what they did, newest first."""

    serializer_class = DecisionOutput
    pagination_class = Pages

    @extend_schema(operation_id="deployments_decisions", responses=DecisionOutput(many=True))
    def get(self, request: Request, name: str) -> Response:
        page = self.paginate_queryset(queries.decisions(queries.get(name)))
        return self.get_paginated_response(DecisionOutput(page, many=True).data)


@extend_schema(parameters=[NAME])
class DeploymentLog(GenericAPIView[Any]):
    """The end of a replica's log, read on its host."""

    serializer_class = LogOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_logs", parameters=[LogQuery], responses=LogOutput)
    def get(self, request: Request, name: str) -> Response:
        query = LogQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        wanted = query.validated_data
        found = logs.tail(
            queries.get(name), wanted.get("replica"), lines=wanted["lines"], now=clock.now()
        )
        return Response(LogOutput(found).data)


@extend_schema(parameters=[NAME], request=None, responses=HostSerializer)
class HostDeclareLost(IdempotentWrites, GenericAPIView[Host]):
    """Give up a silent host at once: its replicas are replaced elsewhere."""

    serializer_class = HostSerializer
    pagination_class = None
    required_role = {"POST": Role.ADMIN}

    @extend_schema(operation_id="hosts_declare_lost")
    def post(self, request: Request, name: str) -> Response:
        host = fleet_queries.host(name)
        hosts.declare_lost(host, actor=caller(request).username, now=clock.now())
        return Response(host_row(fleet_queries.host(name), fleet_queries.price_book()))
