"""Hosts, join tokens and default prices over REST."""

from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.accounts.states import Role
from apps.fleet import actions, prices, queries
from apps.fleet.models import Host, JoinToken
from apps.fleet.serializers import (
    DefaultPriceSerializer,
    HostPatchSerializer,
    HostSerializer,
    JoinTokenSerializer,
    MadeJoinTokenSerializer,
    NewDefaultPriceSerializer,
    NewJoinTokenSerializer,
    host_row,
    join_command,
)
from apps.fleet.states import HostState
from apps.lib import clock
from apps.lib.paging import Pages
from apps.lib.problems import Problem

_NAME = OpenApiParameter("name", OpenApiTypes.STR, OpenApiParameter.PATH)


class HostQuery(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=[(s.value, s.value) for s in HostState], required=False)
    q = serializers.CharField(required=False, help_text="Part of the name.")


class HostList(GenericAPIView[Host]):
    """The machines that run replicas, by name."""

    serializer_class = HostSerializer
    pagination_class = Pages

    @extend_schema(
        operation_id="hosts_list", parameters=[HostQuery], responses=HostSerializer(many=True)
    )
    def get(self, request: Request) -> Response:
        query = HostQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        found = queries.hosts()
        if "state" in query.validated_data:
            found = found.filter(state=query.validated_data["state"])
        if "q" in query.validated_data:
            found = found.filter(name__contains=query.validated_data["q"].lower())
        book = queries.price_book()
        page = self.paginate_queryset(found) or []
        return self.get_paginated_response([host_row(host, book) for host in page])


@extend_schema(parameters=[_NAME])
class HostDetail(IdempotentWrites, GenericAPIView[Host]):
    """One machine."""

    serializer_class = HostSerializer
    pagination_class = None
    required_role = {"GET": Role.VIEWER, "PATCH": Role.ADMIN, "DELETE": Role.ADMIN}

    @extend_schema(operation_id="hosts_retrieve")
    def get(self, request: Request, name: str) -> Response:
        return _answer(name)

    @extend_schema(operation_id="hosts_update", request=HostPatchSerializer)
    def patch(self, request: Request, name: str) -> Response:
        """Set the host's price or its labels."""
        patch = HostPatchSerializer(data=request.data)
        patch.is_valid(raise_exception=True)
        actions.change_host(
            host=queries.host(name), actor=caller(request).username, **patch.validated_data
        )
        return _answer(name)

    @extend_schema(operation_id="hosts_delete", responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Forget a host that is lost, or never reported, and holds no replicas."""
        actions.delete_host(host=queries.host(name), actor=caller(request).username)
        return Response(status=204)


@extend_schema(parameters=[_NAME], request=None, responses=HostSerializer)
class HostDrain(IdempotentWrites, GenericAPIView[Host]):
    """Place nothing more on a host and move away what it serves."""

    serializer_class = HostSerializer
    pagination_class = None
    required_role = {"POST": Role.ADMIN}

    @extend_schema(operation_id="hosts_drain")
    def post(self, request: Request, name: str) -> Response:
        actions.drain(host=queries.host(name), actor=caller(request).username)
        return _answer(name)


@extend_schema(parameters=[_NAME], request=None, responses=HostSerializer)
class HostUncordon(IdempotentWrites, GenericAPIView[Host]):
    """Place replicas on a host again."""

    serializer_class = HostSerializer
    pagination_class = None
    required_role = {"POST": Role.ADMIN}

    @extend_schema(operation_id="hosts_uncordon")
    def post(self, request: Request, name: str) -> Response:
        actions.uncordon(host=queries.host(name), actor=caller(request).username)
        return _answer(name)


def _answer(name: str) -> Response:
    return Response(host_row(queries.host(name), queries.price_book()))


class JoinTokenList(IdempotentWrites, GenericAPIView[JoinToken]):
    """One-time tokens with which a machine becomes a host; each holds for an hour."""

    serializer_class = JoinTokenSerializer
    pagination_class = Pages
    required_role = {"GET": Role.ADMIN, "POST": Role.ADMIN}

    @extend_schema(operation_id="join_tokens_list", responses=JoinTokenSerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(queries.join_tokens())
        return self.get_paginated_response(JoinTokenSerializer(page, many=True).data)

    @extend_schema(
        operation_id="join_tokens_create",
        request=NewJoinTokenSerializer,
        responses={201: MadeJoinTokenSerializer},
    )
    def post(self, request: Request) -> Response:
        order = NewJoinTokenSerializer(data=request.data)
        order.is_valid(raise_exception=True)
        token, secret = actions.create_join_token(actor=caller(request).username, now=clock.now())
        address = request.build_absolute_uri("/")
        answer = {
            **JoinTokenSerializer(token).data,
            "token": secret,
            "command": join_command(secret, address, order.validated_data["name"]),
        }
        return Response(answer, status=201)


class JoinTokenDetail(IdempotentWrites, GenericAPIView[JoinToken]):
    """One join token: revoke it here."""

    serializer_class = JoinTokenSerializer
    pagination_class = None
    required_role = {"DELETE": Role.ADMIN}

    @extend_schema(operation_id="join_tokens_delete", responses={204: None})
    def delete(self, request: Request, token_id: UUID) -> Response:
        token = queries.join_tokens().filter(pk=token_id).first()
        if token is None:
            raise Problem(404, "join_token_unknown", f"There is no join token {token_id}.")
        actions.revoke_join_token(token=token, actor=caller(request).username, now=clock.now())
        return Response(status=204)


class DefaultPriceList(GenericAPIView[Any]):
    """What an hour costs of a GPU of each kind, and of a host without GPUs (`cpu`)."""

    serializer_class = DefaultPriceSerializer
    pagination_class = Pages

    @extend_schema(operation_id="default_prices_list", responses=DefaultPriceSerializer(many=True))
    def get(self, request: Request) -> Response:
        book = queries.price_book()
        page = self.paginate_queryset(book.kinds()) or []
        return self.get_paginated_response([_price_row(kind, book) for kind in page])


@extend_schema(parameters=[OpenApiParameter("kind", OpenApiTypes.STR, OpenApiParameter.PATH)])
class DefaultPriceDetail(IdempotentWrites, GenericAPIView[Any]):
    """The default price of one kind."""

    serializer_class = DefaultPriceSerializer
    pagination_class = None
    required_role = {"PUT": Role.ADMIN, "DELETE": Role.ADMIN}

    @extend_schema(operation_id="default_prices_set", request=NewDefaultPriceSerializer)
    def put(self, request: Request, kind: str) -> Response:
        wanted = NewDefaultPriceSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        actions.set_default_price(
            kind=_known_kind(kind), actor=caller(request).username, **wanted.validated_data
        )
        return Response(_price_row(_known_kind(kind), queries.price_book()))

    @extend_schema(operation_id="default_prices_reset", responses={204: None})
    def delete(self, request: Request, kind: str) -> Response:
        """Go back to the price that comes with Hearth."""
        actions.reset_default_price(kind=_known_kind(kind), actor=caller(request).username)
        return Response(status=204)


def _known_kind(kind: str) -> str:
    """Return `kind` as it is kept: a GPU's whole name is fine too. Raises Problem 400."""
    name = prices.kind_of(kind)
    if not prices.KIND.fullmatch(name):
        raise Problem(400, "invalid", "kind: give `cpu` or the name of a GPU, as `h100`.")
    return name


def _price_row(kind: str, book: prices.PriceBook) -> dict[str, Any]:
    return {
        "kind": kind,
        "price_per_hour_usd": float(book.of_kind(kind)),
        "is_set": kind in book.overrides,
    }
