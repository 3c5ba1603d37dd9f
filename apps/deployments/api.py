"""Deployments over REST: order, look, change, start, stop, roll back, delete."""

from typing import Any

from django.conf import settings
from django.db.models import Q
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.accounts.permissions import role_of
from apps.accounts.states import Role
from apps.deployments import actions, dry_run, listing, queries
from apps.deployments.models import Deployment
from apps.deployments.plan_presenting import plan_row
from apps.deployments.presenting import deployment_rows
from apps.deployments.serializers import (
    ChangeInput,
    DeploymentOutput,
    ListQuery,
    OrderInput,
    PlanOutput,
)
from apps.lib import clock
from apps.lib.addresses import gateway_url
from apps.lib.paging import Pages
from apps.lib.problems import Problem
from apps.telemetry import live

NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH)

_IF_MATCH = OpenApiParameter(
    "If-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The ETag that was read; 412, with what changed, when it is no longer the newest.",
)
_BEING_DELETED = OpenApiResponse(DeploymentOutput, "Accepted: it drains, stops, and then is gone.")


def endpoint_for(request: Request) -> str:
    """Return the gateway's base URL as this caller reaches it."""
    return gateway_url(request.get_host(), settings.GATEWAY_ADDR, secure=request.is_secure())


def is_admin(request: Request) -> bool:
    """Return whether the caller may give what is for admins alone."""
    return role_of(caller(request)) is Role.ADMIN


def deployment_answer(request: Request, name: str, status: int = 200) -> Response:
    """Return one deployment, read anew, with its ETag."""
    deployment = queries.get(name)
    [row] = deployment_rows([deployment], live.numbers(), endpoint_for(request))
    return Response(row, status=status, headers={"ETag": f'"{deployment.generation}"'})


class DeploymentList(IdempotentWrites, GenericAPIView[Deployment]):
    """What is served, and orders for more."""

    serializer_class = DeploymentOutput
    pagination_class = Pages

    @extend_schema(
        operation_id="deployments_list",
        parameters=[ListQuery],
        responses=DeploymentOutput(many=True),
    )
    def get(self, request: Request) -> Response:
        query = ListQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        found = listing.deployments()
        wanted = query.validated_data
        if "phase" in wanted:
            found = found.filter(phase=wanted["phase"])
        if "q" in wanted:
            found = found.filter(
                Q(name__icontains=wanted["q"]) | Q(catalog_slug__icontains=wanted["q"])
            )
        if "ordering" in wanted:
            found = found.order_by(wanted["ordering"], "id")
        page = listing.complete(self.paginate_queryset(found) or [])
        rows = deployment_rows(page, live.numbers(), endpoint_for(request))
        return self.get_paginated_response(rows)

    @extend_schema(
        operation_id="deployments_create",
        request=OrderInput,
        responses={201: DeploymentOutput},
    )
    def post(self, request: Request) -> Response:
        """Order a model: `{"catalog": "<slug>"}` alone is a whole order."""
        order = OrderInput(data=request.data)
        order.is_valid(raise_exception=True)
        made = actions.create(
            order.order(by_admin=is_admin(request)), actor=caller(request).username, now=clock.now()
        )
        response = deployment_answer(request, made.name, status=201)
        response["Location"] = f"/api/v1/deployments/{made.name}/"
        return response


class DeploymentPlan(GenericAPIView[Any]):
    """A dry run: what an order would become, on which hosts it fits, and what it would cost."""

    serializer_class = PlanOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_plan", request=OrderInput, responses=PlanOutput)
    def post(self, request: Request) -> Response:
        order = OrderInput(data=request.data)
        order.is_valid(raise_exception=True)
        return Response(plan_row(dry_run.plan(order.order())))


@extend_schema(parameters=[NAME])
class DeploymentDetail(IdempotentWrites, GenericAPIView[Deployment]):
    """One deployment."""

    serializer_class = DeploymentOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_retrieve")
    def get(self, request: Request, name: str) -> Response:
        return deployment_answer(request, name)

    @extend_schema(operation_id="deployments_update", request=ChangeInput, parameters=[_IF_MATCH])
    def patch(self, request: Request, name: str) -> Response:
        """Change how many replicas run, or the engine's settings (a new revision)."""
        patch = ChangeInput(data=request.data)
        patch.is_valid(raise_exception=True)
        actions.change(
            queries.get(name),
            patch=patch.change(_if_generation(request), by_admin=is_admin(request)),
            actor=caller(request).username,
            now=clock.now(),
        )
        return deployment_answer(request, name)

    @extend_schema(operation_id="deployments_delete", responses={202: _BEING_DELETED})
    def delete(self, request: Request, name: str) -> Response:
        """Drain and stop every replica, then remove the deployment."""
        actions.delete(queries.get(name), actor=caller(request).username, now=clock.now())
        return deployment_answer(request, name, status=202)


def _if_generation(request: Request) -> int | None:
    """Return the generation that `If-Match` asks for, None when any will do.

    Raises Problem 412 for a tag that is none of ours: it cannot match.
    """
    tag = request.headers.get("If-Match", "*").strip()
    if tag == "*":
        return None
    number = tag.removeprefix("W/").strip('"')
    if not number.isdecimal():
        raise Problem(
            412, "changed_meanwhile", f"If-Match: {tag} is no ETag of a deployment; read it again."
        )
    return int(number)


@extend_schema(parameters=[NAME], request=None, responses=DeploymentOutput)
class DeploymentStart(IdempotentWrites, GenericAPIView[Deployment]):
    """Run a stopped deployment again, or try a failed one at once."""

    serializer_class = DeploymentOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_start")
    def post(self, request: Request, name: str) -> Response:
        actions.start(queries.get(name), actor=caller(request).username, now=clock.now())
        return deployment_answer(request, name)


@extend_schema(parameters=[NAME], request=None, responses=DeploymentOutput)
class DeploymentStop(IdempotentWrites, GenericAPIView[Deployment]):
    """Drain and stop every replica; the deployment stays."""

    serializer_class = DeploymentOutput
    pagination_class = None

    @extend_schema(operation_id="deployments_stop")
    def post(self, request: Request, name: str) -> Response:
        actions.stop(queries.get(name), actor=caller(request).username, now=clock.now())
        return deployment_answer(request, name)
