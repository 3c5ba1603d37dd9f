"""Refuse members of a request's JSON that the API does not know, instead of ignoring them."""

import difflib
from collections.abc import Mapping
from typing import Any

from rest_framework import serializers


class StrictSerializer(serializers.Serializer[Any]):
    """A serializer for input: a misspelt or unknown member is an error that names it."""

    def to_internal_value(self, data: Any) -> Any:  # noqa: ANN401 - DRF's signature
        """Return the validated values. Raises ValidationError naming each unknown member."""
        if isinstance(data, Mapping):
            known = [name for name, field in self.fields.items() if not field.read_only]
            unknown = {name: _hint(str(name), known) for name in data if name not in known}
            if unknown:
                raise serializers.ValidationError(unknown)
        return super().to_internal_value(data)


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"There is no such member; did you mean {near[0]}?"
    return f"There is no such member; known are {', '.join(known)}."
