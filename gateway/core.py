"""What all requests of one gateway process share, and the moves between them.

Holds the fleet, the keys, the spool and the set of open requests; wakes the next in a queue when a
slot becomes free. All synchronous. Called by `gateway.exchange` and by the programs' tasks.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Protocol

from gateway.address import parse_url
from gateway.auth import Keys
from gateway.books import Books
from gateway.detours import Detours
from gateway.fleet import Deployment, Fleet, Replica
from gateway.settings import Settings
from gateway.spool import Spool
from gateway.upstream import Pool
from gateway.wire import ReplicaRoute, RouteState, RoutingTable


class Reader(Protocol):
    """Who waits for an answer."""

    is_paused: bool
    """It does not keep up, so its engine is not read from either."""


class OpenRequest(Protocol):
    """A request that holds a replica, as the watchers see it."""

    replica: Replica | None

    @property
    def client(self) -> Reader:
        """Whose request it is."""

    def replica_failed(self, reason: str) -> None:
        """Its replica is given up: go elsewhere, or tell the client."""

    def check_deadlines(self, now: float) -> None:
        """Give up what takes longer than any deadline."""

    def stop(self) -> None:
        """The gateway stops: end the request with an error."""


class Core:
    """The shared state of one process."""

    def __init__(self, settings: Settings, spool: Spool | None) -> None:
        self.settings = settings
        self.spool = spool
        self.keys = Keys()
        self.fleet = Fleet(self._open_pool)
        self.detours = Detours(settings)
        self.sharing: Books | None = None
        """Other gateway processes to tell; None = there are none."""
        self.open: set[OpenRequest] = set()
        self.idle = asyncio.Event()
        """Set while no request is open."""
        self.idle.set()
        self.has_waiting = asyncio.Event()
        """Set while somebody waits for a slot."""
        self.shadows = 0
        """Copies of requests under way; see `gateway.shadow`."""
        self.is_draining = False
        """No new requests; those that are open go on."""
        self.is_stopping = False
        """The open ones are being ended: no more retries."""
        self.table_revision = -1
        self.on_change: Callable[[], None] = _nothing
        """Called on any change of a number in flight or queued."""
        self.table_at = time.monotonic()
        self._id_prefix = f"req-{os.urandom(8).hex()}-"
        self._id_count = 0

    def new_id(self) -> str:
        """Return a request id that no other process and no earlier start gives."""
        self._id_count += 1
        return f"{self._id_prefix}{self._id_count}"

    def opened(self, request: OpenRequest) -> None:
        """A request has come."""
        if not self.open:
            self.idle.clear()
        self.open.add(request)

    def closed(self, request: OpenRequest) -> None:
        """A request has ended."""
        self.open.discard(request)
        if not self.open:
            self.idle.set()

    def apply(self, table: RoutingTable, *, now: float, wall: float) -> None:
        """Make everything as `table` says, and move what this sets free."""
        self.fleet.apply(table, now=now, wall=wall)
        self.keys.apply(table.keys)
        self.detours.apply(table)
        self.table_revision = table.revision
        self.table_at = now
        for request in list(self.open):
            replica = request.replica
            if replica is not None and replica.route.state is RouteState.ASLEEP:
                request.replica_failed("the replica went to sleep")
        for deployment in self.fleet.deployments.values():
            self.pump(deployment)
        self.on_change()

    def pump(self, deployment: Deployment) -> None:
        """Let those who wait take what is free."""
        if deployment.is_pumping or deployment.queue.length == 0:
            return
        deployment.is_pumping = True
        try:
            while deployment.queue.length > 0 and deployment.free():
                ticket = deployment.queue.next()
                if ticket is not None:
                    ticket.waiter.proceed()
        finally:
            deployment.is_pumping = False

    def take(
        self, deployment: Deployment, replica: Replica, tokens: int, blocks: list[int]
    ) -> None:
        """A request goes to `replica` with `tokens` to prefill."""
        replica.in_flight += 1
        replica.pending_tokens += tokens
        replica.tally.in_flight += 1
        replica.tally.requests += 1
        deployment.prefixes.place(replica.id, blocks)
        if self.sharing is not None:
            self.sharing.began(deployment.name, replica.id, tokens, blocks)

    def prefilled(self, deployment: Deployment, replica: Replica, tokens: int) -> None:
        """The request's first token is there."""
        replica.pending_tokens -= tokens
        replica.streams += 1
        if self.sharing is not None:
            self.sharing.first_token(deployment.name, replica.id, tokens)

    def leave(
        self, deployment: Deployment, replica: Replica, tokens: int, *, streamed: bool
    ) -> None:
        """The request left `replica`, for whatever reason."""
        replica.in_flight -= 1
        replica.tally.in_flight -= 1
        if streamed:
            replica.streams -= 1
        else:
            replica.pending_tokens -= tokens
        if self.sharing is not None:
            self.sharing.ended(deployment.name, replica.id, tokens, streamed=streamed)

    def eject(self, deployment: Deployment, replica: Replica, reason: str) -> None:
        """Stop using `replica` until a probe finds it well; move what it holds."""
        deployment.refresh()
        for request in list(self.open):
            if request.replica is replica:
                request.replica_failed(reason)

    def restore(self, deployment: Deployment) -> None:
        """A replica is back."""
        deployment.refresh()
        self.pump(deployment)

    def why_not_ready(self) -> str:
        """Return why no request should be sent here, or an empty string."""
        if self.is_draining:
            return "stopping"
        if self.table_revision < 0:
            return "no routing table yet"
        if self.spool is not None and not self.spool.is_accepting:
            return "usage cannot be recorded: the disk is full"
        return ""

    def to_wake(self) -> tuple[str, ...]:
        """Deployments without a ready replica that requests wait for."""
        return tuple(
            d.name
            for d in self.fleet.deployments.values()
            if d.queue.length and d.is_waking and d.route.wakeable
        )

    def _open_pool(self, route: ReplicaRoute) -> Pool:
        return Pool(
            parse_url(route.url),
            api_key=route.api_key,
            connect_seconds=self.settings.deadlines.connect_seconds,
        )


def _nothing() -> None:
    """Nobody listens for changes."""
