"""The catalog over REST: what can be deployed, in which variants, and what is wrong with files."""

from typing import Any

import msgspec
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from agents.wire import EngineSettings, Task
from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.accounts.states import Role
from apps.catalog import actions, catalog, shapes
from apps.catalog.entry import Device, DeviceRules, Entry, Feature, Quantization, Variant
from apps.catalog.reading import Problem as FileProblem
from apps.catalog.settings import engine_settings
from apps.lib.paging import Pages
from apps.lib.problems import Problem
from apps.lib.strict import StrictSerializer


class LicenceSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    url = serializers.URLField()


class ParametersSerializer(serializers.Serializer[Any]):
    total = serializers.IntegerField()
    active = serializers.IntegerField(help_text="How many one token uses.")


class VariantRowSerializer(serializers.Serializer[Variant]):
    name = serializers.CharField()
    quantization = serializers.ChoiceField(choices=[(q.value, q.value) for q in Quantization])
    weight_bytes = serializers.IntegerField()
    devices = serializers.ListField(
        child=serializers.ChoiceField(choices=[(d.value, d.value) for d in Device]),
        help_text="Kinds of device it runs on.",
    )
    context_tokens = serializers.IntegerField()
    min_vllm = serializers.CharField()


class EntryRowSerializer(serializers.Serializer[Entry]):
    slug = serializers.CharField()
    name = serializers.CharField()
    maker = serializers.CharField()
    family = serializers.CharField()
    summary = serializers.CharField()
    task = serializers.ChoiceField(choices=[(task.value, task.value) for task in Task])
    licence = LicenceSerializer()
    parameters = ParametersSerializer()
    context_tokens = serializers.IntegerField()
    embedding_dim = serializers.IntegerField(allow_null=True)
    min_vllm = serializers.CharField(help_text="Oldest vLLM that serves it.")
    capabilities = serializers.ListField(
        child=serializers.ChoiceField(choices=[(item.value, item.value) for item in Feature])
    )
    gated = serializers.BooleanField(help_text="The hub asks for an accepted licence.")
    recommended = serializers.ListField(
        child=serializers.CharField(), help_text="Variants, the one to prefer first."
    )
    variants = VariantRowSerializer(many=True)


class SourceSerializer(serializers.Serializer[Any]):
    uri = serializers.CharField(source="source")
    sha256 = serializers.CharField(allow_null=True)
    convert = serializers.CharField(allow_null=True)
    download_bytes = serializers.IntegerField()


class DeviceSerializer(serializers.Serializer[Any]):
    device = serializers.ChoiceField(choices=[(d.value, d.value) for d in Device])
    min_compute_capability = serializers.CharField(allow_null=True)
    engine = serializers.DictField(help_text="Engine settings that differ from the defaults.")


class VariantSerializer(VariantRowSerializer):
    sources = SourceSerializer(many=True, help_text="In order of preference.")
    shape = serializers.SerializerMethodField()
    kv_bytes_per_token = serializers.SerializerMethodField()
    device_settings = serializers.SerializerMethodField()

    @extend_schema_field(serializers.DictField())
    def get_shape(self, variant: Variant) -> dict[str, Any]:
        """Return the dimensions of the model."""
        return dict(msgspec.to_builtins(variant.shape))

    def get_kv_bytes_per_token(self, variant: Variant) -> int:
        """Return what each token of a long request adds to the KV cache, on one GPU."""
        return shapes.kv_bytes_per_token(
            variant.shape, element_bytes=variant.shape.weight_element_bytes
        )

    @extend_schema_field(DeviceSerializer(many=True))
    def get_device_settings(self, variant: Variant) -> list[dict[str, Any]]:
        """Return for each kind of device what it must be and how the engine is started."""
        return [_device(variant, device, rules) for device, rules in variant.devices.items()]


class EntrySerializer(EntryRowSerializer):
    tool_call_parser = serializers.CharField(allow_null=True)
    reasoning_parser = serializers.CharField(allow_null=True)
    variants = VariantSerializer(many=True)


class FileProblemSerializer(serializers.Serializer[FileProblem]):
    file = serializers.CharField()
    line = serializers.IntegerField(allow_null=True)
    field = serializers.CharField()
    message = serializers.CharField()


class NewEntrySerializer(StrictSerializer):
    """Where a model is; the rest of its card is read from its files."""

    source = serializers.CharField(  # type: ignore[assignment]  # a field, whatever DRF has
        max_length=400,
        help_text="`hf:<org>/<name>` with or without `@<revision>`, or `path:/folder` on the "
        "control plane's machine.",
    )
    slug = serializers.RegexField(
        r"\A[a-z0-9]+(?:[.-][a-z0-9]+)*\Z",
        max_length=63,
        required=False,
        help_text="Made from the name if not given.",
        error_messages={"invalid": "Use lower-case letters, digits, dots and dashes."},
    )
    name = serializers.CharField(max_length=200, required=False)
    task = serializers.ChoiceField(
        choices=[(task.value, task.value) for task in Task],
        required=False,
        help_text="Told from the architecture if not given.",
    )


class EntryList(IdempotentWrites, GenericAPIView[Any]):
    """The models that can be deployed, by name."""

    serializer_class = EntryRowSerializer
    pagination_class = Pages
    required_role = {"GET": Role.VIEWER, "POST": Role.ADMIN}

    @extend_schema(
        operation_id="catalog_list",
        parameters=[
            OpenApiParameter("q", OpenApiTypes.STR, description="Words that must all occur."),
            OpenApiParameter("task", OpenApiTypes.STR, enum=[task.value for task in Task]),
        ],
        responses=EntryRowSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        found = catalog.search(request.query_params.get("q", ""), _task(request))
        page = self.paginate_queryset(found) or []
        return self.get_paginated_response([EntryRowSerializer(row).data for row in page])

    @extend_schema(
        operation_id="catalog_create",
        request=NewEntrySerializer,
        responses={201: EntrySerializer},
    )
    def post(self, request: Request) -> Response:
        """Add a model by its Hugging Face id or its folder; its config is read, never code."""
        order = NewEntrySerializer(data=request.data)
        order.is_valid(raise_exception=True)
        given = order.validated_data
        task = Task(given["task"]) if "task" in given else None
        made = actions.add_model(
            source=given["source"],
            slug=given.get("slug", ""),
            name=given.get("name", ""),
            task=task,
            actor=caller(request).username,
        )
        address = {"Location": f"/api/v1/catalog/{made.slug}/"}
        return Response(EntrySerializer(made).data, status=201, headers=address)


class EntryDetail(GenericAPIView[Any]):
    """One model with its variants, their sources, shapes and engine settings."""

    serializer_class = EntrySerializer
    pagination_class = None

    @extend_schema(
        operation_id="catalog_retrieve",
        parameters=[OpenApiParameter("slug", OpenApiTypes.STR, OpenApiParameter.PATH)],
    )
    def get(self, request: Request, slug: str) -> Response:
        try:
            entry = catalog.get(slug)
        except catalog.UnknownEntry as error:
            raise Problem(404, "unknown_entry", str(error), extra={"near": error.near}) from error
        return Response(EntrySerializer(entry).data)


class FileProblemList(GenericAPIView[Any]):
    """Mistakes in operators' own catalog files; such a file is left out until it is mended."""

    serializer_class = FileProblemSerializer
    pagination_class = Pages

    @extend_schema(operation_id="catalog_problems", responses=FileProblemSerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(catalog.problems()) or []
        return self.get_paginated_response([FileProblemSerializer(row).data for row in page])


def _task(request: Request) -> Task | None:
    """Return the wanted task, None for all. Raises Problem 400 for a word that is no task."""
    word = request.query_params.get("task", "")
    if not word:
        return None
    try:
        return Task(word)
    except ValueError as error:
        known = ", ".join(Task)
        detail = f"task: {word!r} is not a task; give one of {known}."
        raise Problem(400, "invalid", detail, extra={"field": "task"}) from error


def _device(variant: Variant, device: Device, rules: DeviceRules) -> dict[str, Any]:
    chosen = msgspec.to_builtins(engine_settings(variant, device, {}))
    default = msgspec.to_builtins(EngineSettings())
    return {
        "device": device.value,
        "min_compute_capability": rules.min_compute_capability,
        "engine": {name: value for name, value in chosen.items() if value != default.get(name)},
    }
