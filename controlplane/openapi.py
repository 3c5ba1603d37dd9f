"""The OpenAPI document at `/api/schema`: generated once per process, as it is the same for all.

Generating it takes about half a second of CPU, and anybody may ask for it.
"""

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request


@cache
def document() -> dict[str, Any]:
    """Return the document; do not change it."""
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]
    made: dict[str, Any] = generator.get_schema(  # type: ignore[no-untyped-call]
        request=None, public=True
    )
    return made


class OneDocument(SchemaGenerator):
    """A generator that generates once."""

    def get_schema(self, request: Request | None = None, public: bool = False) -> dict[str, Any]:
        """Return the document, whoever asks."""
        return document()


class SchemaView(SpectacularAPIView):
    """The REST API as an OpenAPI 3 document, YAML or (`?format=json`) JSON."""

    generator_class = OneDocument
