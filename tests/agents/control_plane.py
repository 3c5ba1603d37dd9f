"""A scripted control plane: the agent's wire as an ASGI app, and the levers of a test.

It keeps the rules of the wire (epochs, sequence numbers, the long poll) and nothing else. Serve it
over `httpx.ASGITransport`, or with uvicorn where an agent runs as a program.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from agents import wire
from agents.wire import (
    CacheOrder,
    EnrolReply,
    EnrolRequest,
    Lenders,
    ReadOrder,
    ReadReply,
    ReplicaOrder,
    ReplicaReport,
    Report,
    ReportReply,
    SyncReply,
    SyncRequest,
)

HOST_ID = "host-1"
TOKEN = "join-me"
CREDENTIAL = "credential-of-host-1"
DEADLINE_SECONDS = 200.0
"""Longest wait of a test, in the loop's seconds; ten of them pass in one where time is fast."""

type Scope = dict[str, Any]
type Send = Callable[[dict[str, Any]], Awaitable[None]]
type Receive = Callable[[], Awaitable[dict[str, Any]]]


class ControlPlane:
    """What it orders and what it heard. `changed` is notified on everything it hears."""

    def __init__(self) -> None:
        self.incarnation = "one"
        self.revision = 0
        self.epoch = 0
        self.orders: dict[str, ReplicaOrder] = {}
        self.cache_items: tuple[CacheOrder, ...] = ()
        self.lenders: tuple[Lenders, ...] = ()
        self.reads: tuple[ReadOrder, ...] = ()
        self.keys: tuple[str, ...] = ()
        self.status = 0
        """Answer everything with this HTTP status instead, 0: work."""
        self.refused: list[str] = []
        """Paths that were answered with `status`."""
        self.enrolments: list[EnrolRequest] = []
        self.syncs: list[SyncRequest] = []
        self.reports: list[Report] = []
        self.replies: list[ReadReply] = []
        self.replicas: dict[str, ReplicaReport] = {}
        self.history: list[tuple[str, int, str]] = []
        """(replica, generation, phase), without repeats."""
        self.changed = asyncio.Condition()

    # --- Levers -----------------------------------------------------------------------------

    async def order(self, *orders: ReplicaOrder) -> None:
        """Order these too, in a new revision."""
        self.orders |= {order.replica_id: order for order in orders}
        await self._bump()

    async def drop(self, replica_id: str) -> None:
        """Name a replica no more: absence, not a tombstone."""
        del self.orders[replica_id]
        await self._bump()

    async def cache(self, *items: CacheOrder) -> None:
        self.cache_items = items
        await self._bump()

    async def read(self, order: ReadOrder) -> ReadReply:
        """Ask for a log tail and return the answer."""
        self.reads = (order,)
        async with self.changed:
            self.changed.notify_all()
        await self.until(lambda: any(r.request_id == order.request_id for r in self.replies))
        return self.replies[-1]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds`, looked at whenever something is heard."""
        async with asyncio.timeout(DEADLINE_SECONDS), self.changed:
            await self.changed.wait_for(holds)

    async def until_phase(self, replica_id: str, phase: str, generation: int = 1) -> ReplicaReport:
        """Wait until the newest report of a replica says `phase` of `generation`."""

        def holds() -> bool:
            report = self.replicas.get(replica_id)
            return report is not None and (report.phase, report.generation) == (phase, generation)

        await self.until(holds)
        return self.replicas[replica_id]

    async def until_reports(self, more: int) -> None:
        """Wait until `more` further reports were heard."""
        enough = len(self.reports) + more
        await self.until(lambda: len(self.reports) >= enough)

    async def _bump(self) -> None:
        self.revision += 1
        async with self.changed:
            self.changed.notify_all()

    # --- The wire ---------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        status, answer = await self._handle(scope, body)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _handle(self, scope: Scope, body: bytes) -> tuple[int, bytes]:
        path = scope["path"].removeprefix("/agent/v1/")
        if self.status:
            self.refused.append(path)
            return self.status, json.dumps({"detail": f"scripted {self.status}"}).encode()
        if path == "enrol":
            return await self._enrol(wire.decode(EnrolRequest, body))
        if dict(scope["headers"]).get(b"authorization") != f"Bearer {CREDENTIAL}".encode():
            return 401, b'{"detail": "unknown credential"}'
        if path == "sync":
            return await self._sync(wire.decode(SyncRequest, body))
        if path == "report":
            return await self._report(wire.decode(Report, body))
        await self._hear(self.replies, wire.decode(ReadReply, body))
        return 204, b""

    async def _enrol(self, request: EnrolRequest) -> tuple[int, bytes]:
        await self._hear(self.enrolments, request)
        if request.token != TOKEN:
            return 401, b'{"code": "join_token_unknown", "detail": "The join token is not known."}'
        return 200, wire.encode(
            EnrolReply(
                host_id=HOST_ID, host_name=request.host_name, credential=CREDENTIAL,
                incarnation=self.incarnation,
            )
        )  # fmt: skip

    async def _sync(self, request: SyncRequest) -> tuple[int, bytes]:
        await self._hear(self.syncs, request)
        if request.agent_epoch == 0:
            self.epoch += 1
        elif request.agent_epoch < self.epoch:
            return 409, b'{"code": "fenced", "detail": "A newer agent acts for this host."}'
        epoch = request.agent_epoch or self.epoch
        try:
            async with asyncio.timeout(request.wait_seconds), self.changed:
                await self.changed.wait_for(lambda: self._is_news(request) or epoch < self.epoch)
        except TimeoutError:
            if request.agent_epoch:
                return 204, b""
        if self.status:
            self.refused.append("sync")
            return self.status, b"{}"
        reads, self.reads = self.reads, ()
        reply = SyncReply(
            incarnation=self.incarnation, revision=self.revision, agent_epoch=epoch,
            replicas=tuple(self.orders.values()), cache_items=self.cache_items, requests=reads,
            lenders=self.lenders, relay_key_sha256=self.keys,
        )  # fmt: skip
        return 200, wire.encode(reply)

    def _is_news(self, request: SyncRequest) -> bool:
        known = (request.known_incarnation, request.known_revision)
        return known != (self.incarnation, self.revision) or bool(self.reads) or bool(self.status)

    async def _report(self, report: Report) -> tuple[int, bytes]:
        if report.agent_epoch < self.epoch:
            return 409, b'{"code": "fenced", "detail": "A newer agent acts for this host."}'
        for item in report.replicas:
            self.replicas[item.replica_id] = item
            entry = (item.replica_id, item.generation, item.phase.value)
            if entry not in self.history[-1:]:
                self.history.append(entry)
        await self._hear(self.reports, report)
        return 200, wire.encode(ReportReply(accepted=True))

    async def _hear(self, where: list[Any], what: object) -> None:
        where.append(what)
        async with self.changed:
            self.changed.notify_all()
