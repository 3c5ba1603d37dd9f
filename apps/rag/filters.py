"""Filters on documents' metadata: typed conditions in, Milvus' filter language out; pure.

Nobody writes that language but this module: fields are an allow-list or `metadata.<key>` with a
plain key, values are quoted as JSON. Conditions all have to hold.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

type Value = str | int | float | bool

FIELDS = ("document", "kind", "page", "uploaded_at")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_COMPARED = {"eq": "==", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = (*_COMPARED, "in")
MOST_CONDITIONS = 16
MOST_VALUES = 100
_LONGEST_TEXT = 500


class WrongFilter(ValueError):
    """A condition cannot be asked; the message names it and what would do."""


def expression(conditions: Sequence[Mapping[str, Any]]) -> str:
    """Return the filter for `[{"field": "metadata.year", "op": "gte", "value": 2020}]`.

    Empty conditions give an empty text, which filters nothing. Raises WrongFilter.
    """
    if len(conditions) > MOST_CONDITIONS:
        raise WrongFilter(f"give at most {MOST_CONDITIONS} conditions.")
    return " and ".join(_condition(at, row) for at, row in enumerate(conditions))


def metadata(given: Mapping[str, Any]) -> dict[str, Value]:
    """Return a document's metadata as it may be filtered by. Raises WrongFilter."""
    if len(given) > 30:
        raise WrongFilter("give at most 30 members.")
    for key, value in given.items():
        if not _KEY.fullmatch(key):
            raise WrongFilter(f"{key!r}: use letters, digits and _ in names, at most 40.")
        if not isinstance(value, str | int | float | bool):
            raise WrongFilter(f"{key}: give text, a number, true or false.")
        if isinstance(value, str) and len(value) > _LONGEST_TEXT:
            raise WrongFilter(f"{key}: text has at most {_LONGEST_TEXT} characters.")
    return dict(given)


def literal(value: Value) -> str:
    """Return `value` in the filter language; text cannot break out of its quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def _condition(at: int, row: Mapping[str, Any]) -> str:
    field, op = row.get("field"), row.get("op", "eq")
    name = _name(at, field)
    if op in _COMPARED:
        return f"{name} {_COMPARED[op]} {literal(_value(at, row.get('value')))}"
    if op == "in":
        values = row.get("value")
        if not isinstance(values, list) or not 1 <= len(values) <= MOST_VALUES:
            raise WrongFilter(f"filters.{at}.value: give a list of 1 to {MOST_VALUES} values.")
        return f"{name} in [{', '.join(literal(_value(at, value)) for value in values)}]"
    raise WrongFilter(f"filters.{at}.op: use one of {', '.join(OPERATORS)}.")


def _name(at: int, field: object) -> str:
    if isinstance(field, str):
        if field in FIELDS:
            return f'meta["{field}"]'
        prefix, _, key = field.partition(".")
        if prefix == "metadata" and _KEY.fullmatch(key):
            return f'meta["m_{key}"]'
    raise WrongFilter(f"filters.{at}.field: use {', '.join(FIELDS)} or metadata.<name>.")


def _value(at: int, value: object) -> Value:
    if isinstance(value, str) and len(value) <= _LONGEST_TEXT:
        return value
    if isinstance(value, bool | int | float) and abs(value) < 2**53:
        return value
    raise WrongFilter(
        f"filters.{at}.value: give text of at most {_LONGEST_TEXT} characters, a number, "
        "true or false."
    )
