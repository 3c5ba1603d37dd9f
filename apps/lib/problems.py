"""Errors that a caller can act on, as RFC 9457 problem details.

Domain code raises `Problem` (or a subclass beside what raises it); `apps.lib.drf.handle` turns it
into a response. This module must not import DRF: its settings load modules that import this one.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """An error with an HTTP status, a stable `code`, and a sentence that says how to mend it.

    `extra` members go beside the standard ones, e.g. `{"field": "name"}`; `retry_after_seconds`
    also becomes the header `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.title = title or HTTPStatus(status).phrase
        self.extra = dict(extra or {})

    def body(self) -> dict[str, Any]:
        """Return the members of the problem object."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.extra,
        }


def of_field(
    status: int, code: str, field: str, message: str, *, detail: str | None = None
) -> Problem:
    """Return the Problem of one `field`; `detail` says more than `field: message` where given."""
    return Problem(
        status,
        code,
        f"{field}: {message}" if detail is None else detail,
        extra={"field": field, "errors": [{"field": field, "message": message}]},
    )
