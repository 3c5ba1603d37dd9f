"""Read the JSON of a request, and refuse early what would break something later.

Refused with a Problem: bodies over the limit, nesting without end, and characters that neither
UTF-8 nor PostgreSQL can hold (lone surrogates, NUL).
"""

import json
import re
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from apps.lib.problems import Problem

BODY_LIMIT_BYTES = 1024 * 1024

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_MAY_BE_UNFIT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


class StrictJsonParser(JSONParser):
    """Parses `application/json` within limits."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - any JSON
        """Return the decoded body. Raises ParseError (400) or Problem 413."""
        body: bytes = stream.read(BODY_LIMIT_BYTES + 1)
        if len(body) > BODY_LIMIT_BYTES:
            raise too_large()
        try:
            value = json.loads(body.decode(), parse_constant=_refuse_constant)
        except RecursionError as error:
            raise ParseError("The JSON is nested too deeply.") from error
        except ValueError as error:  # also UnicodeDecodeError
            raise ParseError(f"The body is no JSON: {error}.") from error
        if _MAY_BE_UNFIT.search(body):
            _refuse_unfit_text(value)
        return value


def too_large() -> Problem:
    """Return the error for a body over the limit."""
    limit = BODY_LIMIT_BYTES // 1024
    return Problem(413, "body_too_large", f"The body is larger than {limit} KiB.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _refuse_unfit_text(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParseError("The JSON holds half a surrogate pair, which is no character.") from error
    if _NUL.search(text):
        raise ParseError("The JSON holds the character NUL.")
