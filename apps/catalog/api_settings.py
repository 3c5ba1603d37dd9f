"""The engine settings over REST: what can be set, its defaults and ranges, and why not."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from agents.engine_flags import NEWEST
from apps.catalog import catalog
from apps.catalog.entry import Device, UnknownVariant, Variant
from apps.catalog.sheet import SettingRow, sheet
from apps.lib.problems import Problem


class OptionOutput(serializers.Serializer[Any]):
    value = serializers.CharField()
    available = serializers.BooleanField()
    reason = serializers.CharField(help_text="Why it cannot be taken here; empty if it can.")


class SettingOutput(serializers.Serializer[SettingRow]):
    name = serializers.CharField()
    kind = serializers.CharField(help_text="`int`, `float`, `bool`, `str`, `dict` or `tuple`.")
    help = serializers.CharField()
    flag = serializers.CharField(help_text="Of `vllm serve`; empty where it is no flag.")
    unit = serializers.CharField()
    default = serializers.CharField(help_text="What is taken when it is left out, in words.")
    catalog_value = serializers.JSONField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    multiple_of = serializers.IntegerField(help_text="0 for any.")
    accepted = serializers.CharField()
    options = OptionOutput(many=True)
    available = serializers.BooleanField()
    reason = serializers.CharField(help_text="Why it cannot be set here; empty if it can.")
    admin_only = serializers.BooleanField()


class GroupOutput(serializers.Serializer[Any]):
    name = serializers.CharField()
    settings = SettingOutput(many=True)


class SheetOutput(serializers.Serializer[Any]):
    engine = serializers.CharField()
    version = serializers.CharField()
    device = serializers.ChoiceField(choices=[(d.value, d.value) for d in Device])
    groups = GroupOutput(many=True)


class EngineSettingsSheet(GenericAPIView[Any]):
    """Every engine setting with its group, default, range and sentence; and why not here."""

    serializer_class = SheetOutput
    pagination_class = None

    @extend_schema(
        operation_id="engine_settings",
        parameters=[
            OpenApiParameter("device", OpenApiTypes.STR, enum=[d.value for d in Device]),
            OpenApiParameter("catalog", OpenApiTypes.STR, description="For this model's limits."),
            OpenApiParameter(
                "variant", OpenApiTypes.STR, description="The preferred if not given."
            ),
            OpenApiParameter(
                "capability", OpenApiTypes.STR, description="GPU generation, such as `8.9`."
            ),
        ],
        responses=SheetOutput,
    )
    def get(self, request: Request) -> Response:
        asked = request.query_params
        variant = _variant(asked.get("catalog", ""), asked.get("variant", ""))
        device = _device(asked.get("device", ""), variant)
        groups = sheet(device, variant=variant, capability=_capability(asked.get("capability", "")))
        return Response(
            {
                "engine": "vllm",
                "version": NEWEST,
                "device": device.value,
                "groups": [
                    {"name": group.group.value, "settings": [setting_row(r) for r in group.rows]}
                    for group in groups
                ],
            }
        )


def setting_row(row: SettingRow) -> dict[str, Any]:
    """Return one setting as the API shows it."""
    setting = row.setting
    return {
        "name": row.name,
        "kind": setting.kind.__name__,
        "help": setting.help,
        "flag": setting.flag,
        "unit": setting.unit,
        "default": row.default,
        "catalog_value": row.catalog_value,
        "low": setting.low,
        "high": setting.high,
        "multiple_of": setting.step(row.device),
        "accepted": row.accepted,
        "options": [
            {"value": o.value, "available": o.available, "reason": o.reason} for o in row.options
        ],
        "available": not row.reason,
        "reason": row.reason,
        "admin_only": setting.admin_only,
    }


def _variant(slug: str, name: str) -> Variant | None:
    if not slug:
        return None
    try:
        entry = catalog.get(slug)
        return entry.variant(name) if name else entry.ranked_variants[0]
    except catalog.UnknownEntry as error:
        raise Problem(404, "unknown_entry", str(error), extra={"field": "catalog"}) from error
    except UnknownVariant as error:
        raise Problem(404, "unknown_variant", str(error), extra={"field": "variant"}) from error


def _device(word: str, variant: Variant | None) -> Device:
    if not word:
        return next(iter(variant.devices)) if variant is not None else Device.CUDA
    if word not in set(Device):
        raise Problem(
            400, "invalid", f"device: {word!r} is not cpu or cuda.", extra={"field": "device"}
        )
    return Device(word)


def _capability(word: str) -> str:
    whole, _, part = word.partition(".")
    if word and not (whole.isdigit() and part.isdigit()):
        raise Problem(
            400,
            "invalid",
            f"capability: {word!r} is no GPU generation; write it as 8.9.",
            extra={"field": "capability"},
        )
    return word
