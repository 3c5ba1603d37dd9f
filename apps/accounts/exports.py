"""Long lists as files: CSV for spreadsheets, JSON lines for programs.

A view offers them by `renderer_classes`; `?format=csv` or `Accept: text/csv` chooses.
"""

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.core.serializers.json import DjangoJSONEncoder
from django.http import StreamingHttpResponse
from rest_framework.renderers import BaseRenderer

ROWS_LIMIT = 50_000
"""An export holds at most this many rows; narrow it by time to get the rest."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class CsvRenderer(BaseRenderer):
    """Renders a list of flat mappings as CSV with a header line."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(
        self,
        data: object,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return the CSV; an error object is passed on as JSON."""
        if not isinstance(data, list):
            return _json(data)
        columns = list(data[0]) if data else []
        return _lines([dict(zip(columns, columns, strict=True)), *data], columns)


class JsonLinesRenderer(BaseRenderer):
    """Renders a list as one JSON object a line."""

    media_type = "application/jsonl"
    format = "jsonl"
    charset = "utf-8"

    def render(
        self,
        data: object,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return the lines; an error object is passed on as JSON."""
        rows: Iterable[object] = data if isinstance(data, list) else [data]
        return b"".join(_json(row) + b"\n" for row in rows)


def csv_file(
    name: str, columns: Sequence[str], parts: Iterable[Sequence[Mapping[str, Any]]]
) -> StreamingHttpResponse:
    """Return the rows of `parts` as a CSV file called `name`, each part sent when it is made."""

    async def lines() -> AsyncIterator[bytes]:
        yield _lines([dict(zip(columns, columns, strict=True))], columns)
        # In a thread, as parts may read the database.
        rest = iter(parts)
        while part := await sync_to_async(lambda: next(rest, None))():
            yield _lines(part, columns)

    return StreamingHttpResponse(
        lines(),
        content_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _lines(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns)
    writer.writerows({name: _cell(row[name]) for name in columns} for row in rows)
    return out.getvalue().encode()


def _json(value: object) -> bytes:
    return json.dumps(value, cls=DjangoJSONEncoder).encode()


def _cell(value: object) -> str:
    """Return one cell; text that a spreadsheet would run as a formula gets a quote before it."""
    text = value if isinstance(value, str) else _json(value).decode()
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA_STARTS) else text
