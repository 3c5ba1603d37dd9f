"""Aliases over REST: a knowledge base in front of a deployment, as one model name."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.lib import clock
from apps.lib.paging import Pages
from apps.lib.problems import Problem
from apps.lib.strict import StrictSerializer
from apps.rag import aliases
from apps.rag.api import BASE, base_of
from apps.rag.models import Alias


class AttachedSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="The model name for OpenAI clients.")
    deployment = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()


class AttachInput(StrictSerializer):
    deployment = serializers.CharField(max_length=63)
    name = serializers.RegexField(
        r"\A[a-z0-9][a-z0-9.+-]{0,126}\Z",
        required=False,
        default="",
        allow_blank=True,
        help_text="By default `deployment+slug`.",
    )


@extend_schema(parameters=[BASE])
class AliasList(IdempotentWrites, GenericAPIView[Alias]):
    """Model names that answer from this knowledge base."""

    serializer_class = AttachedSerializer
    pagination_class = Pages

    @extend_schema(operation_id="knowledge_aliases_list", responses=AttachedSerializer(many=True))
    def get(self, request: Request, base: str) -> Response:
        page = self.paginate_queryset(aliases.attached(base_of(request, base)))
        return self.get_paginated_response(AttachedSerializer(page, many=True).data)

    @extend_schema(
        operation_id="knowledge_aliases_create",
        request=AttachInput,
        responses={201: AttachedSerializer},
    )
    def post(self, request: Request, base: str) -> Response:
        order = AttachInput(data=request.data)
        order.is_valid(raise_exception=True)
        made = aliases.attach(
            base_of(request, base),
            deployment=order.validated_data["deployment"],
            name=order.validated_data["name"],
            user=caller(request),
            now=clock.now(),
        )
        return Response(AttachedSerializer(made).data, status=201)


@extend_schema(parameters=[BASE])
class AliasDetail(IdempotentWrites, GenericAPIView[Alias]):
    """One model name: take it away here."""

    serializer_class = AttachedSerializer
    pagination_class = None

    @extend_schema(operation_id="knowledge_aliases_delete", responses={204: None})
    def delete(self, request: Request, base: str, name: str) -> Response:
        alias = aliases.attached(base_of(request, base)).filter(name=name).first()
        if alias is None:
            raise Problem(404, "not_found", f"There is no alias {name[:128]}.")
        aliases.detach(alias, user=caller(request))
        return Response(status=204)
