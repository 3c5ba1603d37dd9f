"""Plain ASGI for the programs' HTTP: what agents and gateways send every second.

Two hundred hosts report every second, so a message must cost far less than a Django view with its
middleware. Browsers and people never come here: no sessions, cookies or templates.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from django.db import DatabaseError

from apps.lib.problems import CONTENT_TYPE, Problem

type Scope = dict[str, Any]
type Receive = Callable[[], Awaitable[dict[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]

BODY_TIMEOUT_SECONDS = 15.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One HTTP request of a program, body still unread."""

    scope: Scope
    receive: Receive

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    def header(self, name: bytes) -> str:
        """Return the header `name` (lower case), empty if it is missing."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value.decode("latin-1"))
        return ""

    def bearer(self) -> str:
        """Return the bearer credential. Raises Problem 401 if there is none."""
        scheme, _, credential = self.header(b"authorization").partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise Problem(401, "no_credential", "Send `Authorization: Bearer <credential>`.")
        return credential.strip()

    async def body(self, limit_bytes: int) -> bytes:
        """Return the whole body. Raises Problem 413 above `limit_bytes`, 408 when it is slow."""
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                return await self._read(limit_bytes)
        except TimeoutError as error:
            raise Problem(408, "slow_body", "The body did not come in time.") from error

    async def _read(self, limit_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "cut_short", "The body ended too early.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit_bytes:
                raise Problem(413, "too_large", f"The body is over {limit_bytes} bytes.")
            if not message.get("more_body"):
                return b"".join(parts)

    async def gone(self) -> None:
        """Return when the caller has closed the connection; use after the body was read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


type Endpoint = Callable[[Request], Awaitable[bytes]]


async def serve(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the JSON that `endpoint` returns, or with the Problem that it raises."""
    try:
        await _respond(send, 200, await endpoint(Request(scope, receive)))
    except msgspec.ValidationError as error:
        await _problem(send, Problem(400, "invalid", str(error)))
    except msgspec.DecodeError as error:
        await _problem(send, Problem(400, "invalid_json", f"The body is not JSON: {error}"))
    except Problem as problem:
        await _problem(send, problem)
    except DatabaseError as error:
        logger.warning("%s: the database did not answer: %s", scope["path"], error)
        text = f"The database does not answer, try again: {error}"
        await _problem(send, Problem(503, "database", text))


async def _problem(send: Send, problem: Problem) -> None:
    await _respond(send, problem.status, msgspec.json.encode(problem.body()), CONTENT_TYPE)


async def _respond(
    send: Send, status: int, body: bytes, content_type: str = "application/json"
) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
