"""What the OpenAPI document says of every operation: the error shape, and the common headers."""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from apps.lib.problems import CONTENT_TYPE

_SAFE = ("GET", "HEAD", "OPTIONS")

_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="Send the same key again after a lost answer: the write happens once.",
)

_TEXT = {"type": "string"}

_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details; some codes bring more members.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "code": {**_TEXT, "description": "Stable word for programs."},
        "detail": {
            **_TEXT,
            "description": "Sentence for people: what is wrong and how to mend it.",
        },
        "field": {**_TEXT, "description": "The wrong field, as `scaling.min_replicas`."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": _TEXT, "message": _TEXT},
                "required": ["field", "message"],
            },
        },
    },
}


class Schema(AutoSchema):
    """Adds `Idempotency-Key` to the writes of views that honour it."""

    def get_override_parameters(self) -> list[Any]:
        """Return the parameters that the generator cannot see."""
        honoured = getattr(self.view, "honours_idempotency_key", False)
        return [_IDEMPOTENCY_KEY] if honoured and self.method not in _SAFE else []


def add_problems(result: dict[str, Any], **_kwargs: object) -> dict[str, Any]:
    """Give every operation the problem object as its answer to errors."""
    result["components"]["schemas"]["Problem"] = _PROBLEM
    content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for item in result["paths"].values():
        for operation in item.values():
            operation["responses"]["default"] = {"content": content, "description": "Any error."}
    return result
