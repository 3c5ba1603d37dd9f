"""The API's JSON against DRF's own."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from django.utils.safestring import mark_safe
from rest_framework.renderers import JSONRenderer
from rest_framework.utils.serializer_helpers import ReturnDict

from apps.deployments.states import ReplicaPhase
from apps.lib.rendering import JsonRenderer


@pytest.mark.parametrize(
    "value",
    [
        {"ids": [UUID(int=7)], "costs": (Decimal("0.10"), 0.1, 1e22, 2**60)},
        {"at": datetime(2026, 1, 2, 3, 4, 5, 120_000, tzinfo=UTC), "on": date(2026, 1, 2)},
        {"phase": ReplicaPhase.READY, ReplicaPhase.READY: None, 3: True},
        {"text": "ü\u2028<b>", "safe": mark_safe("<i>")},
        ReturnDict({"a": {"b": []}}, serializer=None),
        "alone",
    ],
    ids=str,
)
def test_is_what_drf_would_say(value):
    assert json.loads(JsonRenderer().render(value)) == json.loads(JSONRenderer().render(value))


def test_nothing_is_no_body():
    assert JsonRenderer().render(None) == b""


def test_is_indented_for_who_asks():
    wide = JsonRenderer().render({"a": 1}, "application/json; indent=2")

    assert wide == b'{\n  "a": 1\n}'


def test_what_is_no_number_is_null():
    assert JsonRenderer().render({"ratio": float("nan")}) == b'{"ratio":null}'
