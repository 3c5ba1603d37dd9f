"""What a client is told when its request is refused or fails: status, words and JSON shape.

OpenAI's error shape everywhere, Anthropic's on its own path. Engines' own 5xx texts never reach a
client: they have leaked addresses before (CVE-2026-22778).
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec


class Shape(StrEnum):
    """Whose error format a path speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One refusal or failure."""

    status: int
    message: str
    kind: str
    """OpenAI's `type`."""
    code: str | None = None
    param: str | None = None
    retry_after_seconds: float | None = None
    """Sent as `Retry-After`, rounded up to whole seconds."""


class Refused(Exception):
    """A request cannot be served; carries what to tell the client."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def body(problem: Problem, shape: Shape) -> bytes:
    """Return the JSON body of `problem`."""
    return msgspec.json.encode(_value(problem, shape))


def event(problem: Problem, shape: Shape) -> bytes:
    """Return `problem` as the last event of a stream. No `[DONE]` may follow it."""
    return b"event: error\ndata: " + body(problem, shape) + b"\n\n"


def _value(problem: Problem, shape: Shape) -> dict[str, object]:
    if shape is Shape.ANTHROPIC:
        kind = _ANTHROPIC_KINDS.get(problem.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": problem.message}}
    return {
        "error": {
            "message": problem.message,
            "type": problem.kind,
            "param": problem.param,
            "code": problem.code,
        }
    }


def invalid(message: str, *, param: str | None = None, status: int = 400) -> Problem:
    """The caller sent something that can never work."""
    return Problem(status=status, message=message, kind="invalid_request_error", param=param)


def no_key(message: str) -> Problem:
    """The caller did not say who they are, or is not known."""
    return Problem(status=401, message=message, kind="authentication_error", code="invalid_api_key")


def forbidden(message: str) -> Problem:
    """The caller is known and may not do this."""
    return Problem(
        status=403,
        message=message,
        kind="permission_error",
        code="model_not_allowed",
        param="model",
    )


def unknown_model(name: str, allowed: list[str]) -> Problem:
    """No such model; names what the caller's key may use."""
    listing = ", ".join(allowed) if allowed else "none"
    return Problem(
        status=404,
        message=f"The model {name!r} does not exist. This key may use: {listing}.",
        kind="invalid_request_error",
        code="model_not_found",
        param="model",
    )


def limited(message: str, *, code: str, retry_after_seconds: float | None) -> Problem:
    """A limit of the caller's key is reached."""
    return Problem(
        status=429,
        message=message,
        kind="rate_limit_error" if code != "insufficient_quota" else "insufficient_quota",
        code=code,
        retry_after_seconds=retry_after_seconds,
    )


def busy(message: str, *, code: str, retry_after_seconds: float) -> Problem:
    """The deployment, or the gateway, cannot take the request now."""
    return Problem(
        status=503,
        message=message,
        kind="overloaded_error",
        code=code,
        retry_after_seconds=retry_after_seconds,
    )


def engine_failed(message: str, *, status: int = 502, code: str = "engine_failed") -> Problem:
    """No replica brought the answer to its end."""
    return Problem(status=status, message=message, kind="api_error", code=code)
