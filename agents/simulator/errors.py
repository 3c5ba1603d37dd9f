"""The errors of the HTTP API, in the shape vLLM gives them."""

import json
from http import HTTPStatus

_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


class ApiError(Exception):
    """A request that is answered with an error; `param` names the wrong field."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param

    def body(self) -> bytes:
        return json.dumps(self.document()).encode()

    def document(self) -> dict[str, object]:
        """Return `{"error": {message, type, param, code}}`."""
        if self.status == HTTPStatus.UNAUTHORIZED:
            # vLLM answers this one before its own error handlers.
            return {"error": self.message}
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, HTTPStatus(self.status).phrase),
                "param": self.param,
                "code": self.status,
            }
        }


def engine_died() -> ApiError:
    """Return what vLLM says when its engine core is gone."""
    return ApiError(500, "EngineCore encountered an issue. See stack trace for the root cause.")
