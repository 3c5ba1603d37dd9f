"""The gateways' HTTP: `/gateway/v1/{table,live,usage}`, plain ASGI beside Django's middleware.

Every call carries a gateway's credential. Messages are those of `gateway.wire`. A table that has
not changed within the wait is answered as it is: its revision tells the gateway so. Assumes one
event loop per process; mounted by `controlplane.asgi`.
"""

import contextlib
import math
from urllib.parse import parse_qs

from channels.db import database_sync_to_async

from apps.lib import clock, doorbell
from apps.lib.asgi import Receive, Request, Scope, Send, serve
from apps.lib.problems import Problem
from apps.telemetry import live
from apps.traffic import ledger, routing
from apps.traffic.credentials import Credentials
from apps.traffic.pulse import Pulse
from apps.traffic.tables import Tables
from gateway.wire import PROTOCOL_VERSION, Live, LiveReply, UsageBatch, decode, encode

PREFIX = "/gateway/v1/"
LONGEST_WAIT_SECONDS = 25.0
LIVE_LIMIT_BYTES = 4 * 1024**2
USAGE_LIMIT_BYTES = 16 * 1024**2
_HOSTS_REMEMBERED = 64
"""Encoded tables kept: gateways stand on few hosts, more are made-up names."""


class GatewayEndpoints:
    """The ASGI application; one per process."""

    def __init__(self, listener: doorbell.Listener) -> None:
        self._tables = Tables(listener)
        self._credentials = Credentials()
        self._pulse = Pulse()
        self._encoded: dict[str, tuple[int, bytes]] = {}
        self._routes = {
            "table": ("GET", self._table),
            "live": ("POST", self._live),
            "usage": ("POST", self._usage),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(self._route, scope, receive, send)

    async def _route(self, request: Request) -> bytes:
        name = request.path.removeprefix(PREFIX).rstrip("/")
        if name not in self._routes:
            raise Problem(404, "not_found", f"There is no {request.path} for gateways.")
        method, endpoint = self._routes[name]
        if request.method != method:
            raise Problem(405, "method_not_allowed", f"Gateways {method} here.")
        await self._credentials.check(request.bearer())
        return await endpoint(request)

    async def _table(self, request: Request) -> bytes:
        query = parse_qs(request.scope["query_string"].decode("latin-1"))
        known = int(_number(query, "known", -1))
        wait = min(_number(query, "wait", 0), LONGEST_WAIT_SECONDS)
        numbered = await self._tables.other_than(known, wait)
        return self._table_for(query.get("host", [""])[-1], numbered)

    def _table_for(self, host: str, numbered: routing.Numbered) -> bytes:
        known = self._encoded.get(host)
        if known is not None and known[0] == numbered.revision:
            return known[1]
        body = encode(routing.table(numbered, host))
        if len(self._encoded) >= _HOSTS_REMEMBERED:
            self._encoded.clear()
        self._encoded[host] = (numbered.revision, body)
        return body

    async def _live(self, request: Request) -> bytes:
        body = await request.body(LIVE_LIMIT_BYTES)
        message = decode(Live, body)
        _check_protocol(message.protocol)
        kept = await live.put_gateway(message.gateway_id, body)
        if message.ring:
            await live.put_wakes(message.ring)
        self._pulse.feel(message)
        newest = self._tables.newest
        return encode(LiveReply(accepted=kept, table_revision=newest.revision if newest else -1))

    async def _usage(self, request: Request) -> bytes:
        batch = decode(UsageBatch, await request.body(USAGE_LIMIT_BYTES))
        _check_protocol(batch.protocol)
        return encode(await database_sync_to_async(ledger.record)(batch, clock.now()))


def _number(query: dict[str, list[str]], name: str, default: float) -> float:
    text = query.get(name, [""])[-1]
    with contextlib.suppress(ValueError):
        number = float(text) if text else default
        if math.isfinite(number):
            return number
    raise Problem(400, "invalid", f"{name}: `{text}` is not a number.", extra={"field": name})


def _check_protocol(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise Problem(
            426,
            "protocol",
            f"protocol: this control plane speaks version {PROTOCOL_VERSION}, the gateway "
            f"{version}; run the same release on both.",
        )
