"""The agents' HTTP: `/agent/v1/{enrol,sync,report,replies/<id>}`, plain ASGI beside Django.

Every call but `enrol` names its host by credential and sees that host's rows alone. A report is
applied only if it is newer than the last one of the newest agent session; samples go to Redis and
cost no row. Assumes one event loop per process.
"""

import asyncio
import contextlib
import time
from datetime import datetime
from uuid import UUID

import msgspec
from channels.db import database_sync_to_async
from django.db import transaction

from agents.wire import (
    PROTOCOL_VERSION,
    EnrolRequest,
    ReadReply,
    Report,
    ReportReply,
    SyncRequest,
    decode,
    encode,
)
from apps.deployments import caches, desired, members, observed, sessions
from apps.deployments.models import ReadRequest
from apps.fleet import actions as fleet_actions
from apps.fleet.models import Host
from apps.lib import clock, doorbell
from apps.lib.asgi import Receive, Request, Scope, Send, serve
from apps.lib.problems import Problem
from apps.telemetry import live as telemetry

ENROL_LIMIT_BYTES = 256 * 1024
SYNC_LIMIT_BYTES = 16 * 1024
REPORT_LIMIT_BYTES = 4 * 1024**2
LONGEST_WAIT_SECONDS = 25.0
_HOST_CACHE_SECONDS = 5.0


class AgentEndpoints:
    """The ASGI application; one per process."""

    def __init__(self, listener: doorbell.Listener) -> None:
        self._listener = listener
        self._revisions = sessions.Revisions()
        self._seen: dict[str, tuple[float, Host]] = {}
        self._seqs: dict[UUID, tuple[int, int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(self._route, scope, receive, send)

    async def _route(self, request: Request) -> bytes:
        name = request.path.removeprefix("/agent/v1/").rstrip("/")
        if request.method != "POST":
            raise Problem(405, "method_not_allowed", "Agents POST here.")
        if name == "enrol":
            return await self._enrol(request)
        host = await self._host(request.bearer())
        if name == "sync":
            return await self._sync(request, host)
        if name == "report":
            return await self._report(request, host)
        if name.startswith("replies/"):
            return await self._reply(request, host, name.removeprefix("replies/"))
        raise Problem(404, "not_found", f"There is no {request.path} for agents.")

    async def _host(self, credential: str) -> Host:
        """Return the host of `credential`; remembered for a few seconds, so that revoking one
        takes effect within them."""
        now = time.monotonic()
        known = self._seen.get(credential)
        if known and now - known[0] < _HOST_CACHE_SECONDS:
            return known[1]
        host: Host | None = await database_sync_to_async(fleet_actions.authenticate)(credential)
        if host is None:
            self._seen.pop(credential, None)
            raise Problem(401, "unknown_credential", "No host has this credential: join again.")
        self._seen[credential] = now, host
        return host

    async def _enrol(self, request: Request) -> bytes:
        order = decode(EnrolRequest, await request.body(ENROL_LIMIT_BYTES))
        _check_protocol(order.protocol)
        return encode(await database_sync_to_async(fleet_actions.enrol)(order, clock.now()))

    async def _sync(self, request: Request, host: Host) -> bytes:
        wish = decode(SyncRequest, await request.body(SYNC_LIMIT_BYTES))
        _check_protocol(wish.protocol)
        epoch = await database_sync_to_async(sessions.admit)(host.pk, wish)
        await database_sync_to_async(_note_alive)(host, clock.now())
        incarnation = str(await database_sync_to_async(fleet_actions.incarnation)())
        if wish.known_incarnation == incarnation and wish.agent_epoch == epoch:
            await self._await_newer(request, host.pk, wish)
        reply = await database_sync_to_async(desired.reply_for)(host.pk, epoch, clock.now())
        return encode(reply)

    async def _await_newer(self, request: Request, host_id: UUID, wish: SyncRequest) -> None:
        """Hold the answer until the host's revision is newer, the wait is over, or it hung up."""
        deadline = time.monotonic() + min(wish.wait_seconds, LONGEST_WAIT_SECONDS)
        gone = asyncio.create_task(request.gone())
        try:
            # One ear for all looks: a ring while the revision is read is answered at once.
            with self._listener.hears(doorbell.host_topic(host_id)) as ear:
                rang = True
                while not gone.done() and (left := deadline - time.monotonic()) > 0:
                    if await self._revisions.of(host_id, now=rang) > wish.known_revision:
                        return
                    rang = await ear.rings(min(left, 1.0))
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _report(self, request: Request, host: Host) -> bytes:
        body = await request.body(REPORT_LIMIT_BYTES)
        report = decode(Report, body)
        _check_protocol(report.protocol)
        if refusal := self._stale(host, report):
            return encode(ReportReply(accepted=False, reason=refusal))
        if report.samples or report.host_sample:
            await telemetry.put_host(host.name, body)
        if report.replicas or report.inventory or report.cache_items or _is_due(host, clock.now()):
            await database_sync_to_async(_record)(host, report, clock.now())
        return encode(ReportReply(accepted=True))

    def _stale(self, host: Host, report: Report) -> str:
        """Return why the report is too old to count, empty if it is the newest."""
        newest = self._seqs.get(host.pk, (host.agent_epoch, host.report_seq))
        this = report.agent_epoch, report.report_seq
        if report.agent_epoch < max(host.agent_epoch, newest[0]):
            raise Problem(409, "fenced", f"A newer agent acts for {host.name}: stop acting.")
        if this <= newest:
            return f"report {this} is not newer than {newest}"
        self._seqs[host.pk] = this
        return ""

    async def _reply(self, request: Request, host: Host, request_id: str) -> bytes:
        answer = decode(ReadReply, await request.body(REPORT_LIMIT_BYTES))
        if answer.request_id != request_id:
            raise Problem(400, "invalid", "request_id: differs from the one in the path.")
        known = await database_sync_to_async(_keep_answer)(host, answer)
        if not known:
            raise Problem(404, "not_found", "No such read is waiting on this host.")
        return b"{}"


def _check_protocol(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise Problem(
            426,
            "protocol",
            f"protocol: this control plane speaks version {PROTOCOL_VERSION}, the agent {version}; "
            "run the same release on both.",
        )


def _is_due(host: Host, now: datetime) -> bool:
    """Return whether the host's sign of life should be written again."""
    return now - host.last_seen_at >= fleet_actions.SEEN_WRITTEN_EVERY


@transaction.atomic
def _note_alive(host: Host, now: datetime) -> None:
    move = fleet_actions.touch(host, now)
    if move is not None:
        observed.record_event(
            at=now,
            kind=f"host.{move.new}",
            message=move.reason,
            actor=f"agent:{host.name}",
            host=host.name,
        )


def _record(host: Host, report: Report, now: datetime) -> None:
    """Write a report's rows. The fence in the row catches a report that went to another process."""
    fresh = sessions.advance(host.pk, report.agent_epoch, report.report_seq)
    if not fresh:
        return
    _note_alive(host, now)
    if report.inventory is not None:
        current = Host.objects.get(pk=host.pk)
        fleet_actions.record_inventory(current, report.inventory, now)
    if report.cache_items:
        caches.record(host, report.cache_items, now)
    observed.record_reports(host, report.replicas, now)
    members.record_reports(host, report.replicas, now)


def _keep_answer(host: Host, answer: ReadReply) -> bool:
    try:
        key = UUID(answer.request_id)
    except ValueError:
        return False
    return bool(
        ReadRequest.objects.filter(pk=key, host=host, answer__isnull=True).update(
            answer=msgspec.to_builtins(answer)
        )
    )
