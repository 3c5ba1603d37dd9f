"""Deployments as YAML over REST: export one, apply many."""

from dataclasses import asdict
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.deployments import queries
from apps.deployments.api import NAME, is_admin
from apps.deployments.as_code import export, manifest
from apps.deployments.as_code.apply import Action, Wish, apply, problem_of
from apps.deployments.as_code.manifest import BadManifest
from apps.deployments.rollout_shapes import DifferenceShape
from apps.lib import clock
from apps.lib.strict import StrictSerializer

YAML = "application/yaml"
"""RFC 9512."""


class ApplyInput(StrictSerializer):
    yaml = serializers.CharField(
        max_length=manifest.MOST_BYTES,
        trim_whitespace=False,
        help_text="Documents as `export/` gives them, parted by `---`.",
    )
    set = serializers.SlugField(
        max_length=63, default="default", help_text="The name that these documents go by."
    )
    prune = serializers.BooleanField(
        default=False, help_text="Delete deployments of this set that no document names."
    )
    dry_run = serializers.BooleanField(default=False, help_text="Say what would happen.")
    take_over = serializers.BooleanField(
        default=False, help_text="Also deployments that belong to another set."
    )


class AppliedOutput(serializers.Serializer[Any]):
    name = serializers.CharField()
    action = serializers.ChoiceField(choices=[(one.value, one.value) for one in Action])
    line = serializers.IntegerField(help_text="Where its document begins; 0 for one that is gone.")
    differences = DifferenceShape(many=True)


class ApplyOutput(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField()
    set = serializers.CharField()
    results = AppliedOutput(many=True)


class Apply(IdempotentWrites, GenericAPIView[Any]):
    """Make deployments as the documents say, all or none."""

    serializer_class = ApplyOutput
    pagination_class = None

    @extend_schema(operation_id="apply", request=ApplyInput, responses=ApplyOutput)
    def post(self, request: Request) -> Response:
        given = ApplyInput(data=request.data)
        given.is_valid(raise_exception=True)
        wanted = given.validated_data
        try:
            documents = manifest.parse(wanted["yaml"])
        except BadManifest as error:
            raise problem_of(error) from error
        wish = Wish(
            documents=documents,
            owner=wanted["set"],
            prune=wanted["prune"],
            dry_run=wanted["dry_run"],
            take_over=wanted["take_over"],
            by_admin=is_admin(request),
        )
        done = apply(wish, actor=caller(request).username, now=clock.now())
        rows = [
            {
                "name": one.name,
                "action": one.action,
                "line": one.line,
                "differences": [asdict(difference) for difference in one.differences],
            }
            for one in done
        ]
        return Response({"dry_run": wish.dry_run, "set": wish.owner, "results": rows})


@extend_schema(parameters=[NAME])
class DeploymentExport(GenericAPIView[Any]):
    """A deployment as the YAML that `apply/` and `manage.py apply` read."""

    serializer_class = serializers.Serializer
    pagination_class = None

    @extend_schema(
        operation_id="deployments_export",
        responses={(200, YAML): OpenApiResponse(OpenApiTypes.STR, "The document.")},
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        return HttpResponse(export.text_of(queries.get(name)), content_type=YAML)
