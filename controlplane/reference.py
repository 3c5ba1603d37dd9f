"""The page `/api/docs`: the REST API's reference, rendered from its OpenAPI schema.

Ours, because the known viewers need scripts from elsewhere or an inline script, and the pages'
Content-Security-Policy allows neither.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_safe

from controlplane.openapi import document

_CODE = re.compile("`([^`]+)`")
_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, kw_only=True)
class Field:
    name: str
    kind: str
    """As `integer`, `string (uuid)`, `list of Gpu`, `one of ready, unknown, lost`."""
    required: bool
    note: SafeString


@dataclass(frozen=True, kw_only=True)
class Operation:
    id: str
    method: str
    path: str
    description: SafeString
    parameters: list[Field]
    body: list[Field]
    status: str
    """Of the answer when all goes well."""
    answer: list[Field]


@dataclass(frozen=True, kw_only=True)
class Group:
    name: str
    operations: list[Operation]


@login_not_required
@require_safe
def reference(request: HttpRequest) -> HttpResponse:
    """Show every operation of the API with its parameters, body and answer."""
    address = request.build_absolute_uri("/").rstrip("/")
    return render(request, "api/reference.html", {"groups": groups(), "address": address})


@cache
def groups() -> tuple[Group, ...]:
    """Return the operations by their first path segment; made once per process."""
    schema = document()
    found: dict[str, list[Operation]] = {}
    for path, item in schema["paths"].items():
        for method in _METHODS:
            if method in item:
                name = path.removeprefix("/api/v1/").split("/")[0]
                operation = _operation(schema, method, path, item[method])
                found.setdefault(name, []).append(operation)
    return tuple(Group(name=name, operations=found[name]) for name in sorted(found))


def _operation(
    schema: Mapping[str, Any], method: str, path: str, spec: Mapping[str, Any]
) -> Operation:
    status, answer = next(iter(spec["responses"].items()))
    return Operation(
        id=spec["operationId"],
        method=method.upper(),
        path=path,
        description=_prose(spec.get("description", "")),
        parameters=[_parameter(schema, row) for row in spec.get("parameters", ())],
        body=list(_content_fields(schema, spec.get("requestBody", {}))),
        status=status,
        answer=list(_content_fields(schema, answer)),
    )


def _parameter(schema: Mapping[str, Any], row: Mapping[str, Any]) -> Field:
    return Field(
        name=row["name"],
        kind=_kind(schema, row["schema"]),
        required=row.get("required", False),
        note=_prose(row.get("description", "")),
    )


def _content_fields(schema: Mapping[str, Any], holder: Mapping[str, Any]) -> Iterator[Field]:
    content = holder.get("content", {}).get("application/json", {}).get("schema", {})
    yield from _fields(schema, _row_of_list(schema, _resolved(schema, content)))


def _row_of_list(schema: Mapping[str, Any], shape: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the shape of one row where `shape` is a page of a list."""
    rows = shape.get("properties", {}).get("results")
    return shape if rows is None else _resolved(schema, rows["items"])


def _fields(schema: Mapping[str, Any], shape: Mapping[str, Any]) -> Iterator[Field]:
    required = shape.get("required", ())
    for name, spec in shape.get("properties", {}).items():
        yield Field(
            name=name,
            kind=_kind(schema, spec),
            required=name in required,
            note=_prose(spec.get("description", "")),
        )


def _prose(text: str) -> SafeString:
    """Return `text` as HTML, what stands in backticks as code."""
    return mark_safe(_CODE.sub(r"<code>\1</code>", escape(text)))


def _resolved(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
    if "allOf" in spec:
        return _resolved(schema, spec["allOf"][0])
    if "$ref" not in spec:
        return spec
    found: Mapping[str, Any] = schema["components"]["schemas"][_ref_name(spec)]
    return found


def _ref_name(spec: Mapping[str, Any]) -> str:
    return str(spec["$ref"]).rpartition("/")[2]


def _kind(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    shape = _resolved(schema, spec)
    if "enum" in shape:
        return "one of " + ", ".join(str(word) for word in shape["enum"] if word is not None)
    if shape.get("type") == "array":
        return f"list of {_kind(schema, shape['items'])}"
    if shape is not spec and "properties" in shape:
        return f"object: {', '.join(shape['properties'])}"
    kind = str(shape.get("type", "any"))
    return f"{kind} ({shape['format']})" if "format" in shape else kind
