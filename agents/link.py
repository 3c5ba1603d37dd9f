"""The one way to the control plane: requests over HTTP that the agent makes, never the reverse.

What can go wrong has three meanings for the agent, each an exception: `Unreachable` (go on alone,
try again), `Unwelcome` (the credential is not taken: go on serving, obey nothing) and `Fenced`
(another agent took this host over: stop acting). Called by `agents.agent` and `agents.report`.
"""

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from agents import wire
from agents.wire import (
    EnrolReply,
    EnrolRequest,
    ReadReply,
    Report,
    ReportReply,
    SyncReply,
    SyncRequest,
)

CONNECT_TIMEOUT_SECONDS = 10.0
REPORT_TIMEOUT_SECONDS = 10.0
POLL_MARGIN_SECONDS = 15.0
"""On top of the seconds that a poll is held: past it the path is taken for dead."""


class Unreachable(Exception):
    """No answer, or none that makes sense (5xx, not the protocol)."""


class Unwelcome(Exception):
    """The control plane does not take this host's credential (401 or 403)."""


class Fenced(Exception):
    """A newer agent acts for this host (409 `fenced`)."""


class Refused(Exception):
    """The enrolment was refused; the message is the control plane's own."""


class Backoff:
    """Growing rests with jitter, so that a thousand agents do not come back in one second."""

    def __init__(
        self, base_seconds: float, cap_seconds: float, draw: Callable[[], float] = random.random
    ) -> None:
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._draw = draw
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def next_seconds(self) -> float:
        """Return the next rest: between half and the whole of base, 2 base, 4 base … cap."""
        whole = min(self._cap_seconds, self._base_seconds * 2.0 ** min(self.failures, 20))
        self.failures += 1
        return whole * (0.5 + 0.5 * self._draw())


class Link:
    """HTTP to the control plane at `address`, an URL or `unix:/path`."""

    def __init__(
        self, address: str, credential: str = "", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.credential = credential
        base_url = address
        if address.startswith("unix:"):
            base_url = "http://control-plane"
            transport = transport or httpx.AsyncHTTPTransport(
                uds=address.removeprefix("unix:"), verify=False
            )
        self._client = httpx.AsyncClient(
            transport=transport,
            base_url=base_url,
            timeout=httpx.Timeout(REPORT_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            headers={"user-agent": "hearth-agent"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        """Exchange the join token for a credential. Raises Refused, Unreachable."""
        response = await self._post("/agent/v1/enrol", request, REPORT_TIMEOUT_SECONDS)
        if 400 <= response.status_code < 500:
            raise Refused(_explanation(response))
        return _decoded(EnrolReply, response)

    async def sync(self, request: SyncRequest) -> SyncReply | None:
        """Return the desired state once it is newer than what `request` knows, None if it is not.

        Raises Unreachable, Unwelcome, Fenced.
        """
        timeout = request.wait_seconds + POLL_MARGIN_SECONDS
        response = await self._post("/agent/v1/sync", request, timeout)
        _check(response)
        return None if response.status_code == 204 else _decoded(SyncReply, response)

    async def report(self, report: Report) -> ReportReply:
        """Deliver `report`. Raises Unreachable, Unwelcome, Fenced."""
        response = await self._post("/agent/v1/report", report, REPORT_TIMEOUT_SECONDS)
        _check(response)
        return _decoded(ReportReply, response)

    async def reply(self, reply: ReadReply, timeout_seconds: float) -> None:
        """Answer a read; an answer that nobody waits for any more is no error."""
        path = f"/agent/v1/replies/{quote(reply.request_id, safe='')}"
        response = await self._post(path, reply, timeout_seconds)
        if response.status_code != 404:
            _check(response)

    async def _post(
        self, path: str, message: wire.Message, timeout_seconds: float
    ) -> httpx.Response:
        headers = {"content-type": "application/json"}
        if self.credential:
            headers["authorization"] = f"Bearer {self.credential}"
        timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS)
        try:
            return await self._client.post(
                path, content=wire.encode(message), headers=headers, timeout=timeout
            )
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error


def _check(response: httpx.Response) -> None:
    if response.status_code in (401, 403):
        raise Unwelcome(_explanation(response))
    if response.status_code == 409:
        raise Fenced(_explanation(response))
    if not response.is_success:
        raise Unreachable(f"HTTP {response.status_code}: {_explanation(response)}")


def _decoded[M: wire.Message](kind: type[M], response: httpx.Response) -> M:
    if not response.is_success:
        raise Unreachable(f"HTTP {response.status_code}: {_explanation(response)}")
    try:
        return wire.decode(kind, response.content)
    except msgspec.DecodeError as error:
        raise Unreachable(f"the answer is no {kind.__name__}: {error}") from error


def _explanation(response: httpx.Response) -> str:
    """Return the sentence in a problem JSON body, else the start of the body."""
    try:
        body: Any = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        return response.text[:200].strip() or response.reason_phrase
    if isinstance(body, dict):
        for name in ("detail", "reason", "title", "code"):
            if isinstance(body.get(name), str) and body[name]:
                return str(body[name])
    return response.text[:200]
