"""The host's agent: its parts, its loops, and the order in which they begin.

First look at what runs, then take up the replicas that the journal and the disk know, then ask the
control plane. Until it has answered, or has been silent for AWAY_AFTER_SECONDS, instances are
followed but no order is carried out: what is on the disk may be old. Called by `agents.__main__`.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents import converge, standing
from agents.cache import Cache
from agents.carry import Live
from agents.converge import Desired
from agents.engines.base import Engine
from agents.ground import Ground, WeightsCache
from agents.inventory import Host
from agents.journal import Journal, Move, Past
from agents.link import Backoff, Fenced, Link, Unreachable, Unwelcome
from agents.reads import Reads
from agents.relay.keeper import RelayKeeper
from agents.report import Reporter, Sources
from agents.scrape import Scraper
from agents.settings import Policy
from agents.sight import Sight
from agents.status import Status
from agents.store import Store
from agents.supervise import Supervisor
from agents.wire import EngineKind, EngineSpec, Inventory, SyncReply, SyncRequest

AWAY_AFTER_SECONDS = 10.0
"""Without an answer for this long the agent acts alone, from the state on its disk."""
POLL_SECONDS = 25.0
SHORTEST_POLL_SECONDS = 0.2
"""Between polls, should the control plane answer every one at once."""
CRASH_REST_SECONDS = 5.0
PRUNE_INTERVAL_SECONDS = 1.0
LEND_INTERVAL_SECONDS = 2.0
"""Between looks at which weights lie here whole."""

log = logging.getLogger("hearth.agent")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an agent is made of; `agents.assembly` makes the real ones, tests their own."""

    host_id: str
    run_root: Path
    policy: Policy
    store: Store
    journal: Journal
    link: Link
    sight: Sight
    host: Host
    relay: RelayKeeper
    weights: WeightsCache
    compile_root: Path
    engine: Callable[[EngineSpec], Engine]
    engine_command: Callable[[EngineKind, str], tuple[str, ...]]
    engine_versions: Callable[[], dict[str, str]]
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Agent:
    """Runs one host."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._supervisors: dict[str, Supervisor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._desired = Desired()
        self._epoch = 0
        self._session_id = secrets.token_hex(8)
        self._heard_at = parts.monotonic()
        self._may_act = False
        self._lendable: dict[str, str] = {}
        self._ground = self._make_ground()
        self._cache = Cache(self._ground, self._weights_in_use)
        self._scraper = Scraper(parts.sight, self._attended, parts.now)
        self._reads = Reads(parts.link, parts.sight, parts.now)
        self._reporter = Reporter(parts.link, self._report_sources())

    async def run(self) -> None:
        """Run until cancelled. Raises Fenced, in an ExceptionGroup, when another took over."""
        await self._parts.sight.look()
        self._route()
        self._parts.relay.on_move = self._relay_moved
        async with asyncio.TaskGroup() as group:
            self._take_up(group)
            for name, loop in (
                ("watch", self._parts.sight.watch),
                ("scrape", self._scraper.run),
                ("report", self._reporter.run),
                ("relay", self._parts.relay.run),
                ("alone", lambda: self._act_when_alone(group)),
                ("prune", self._prune),
                ("lend", self._lend),
                ("sync", lambda: self._sync(group)),
            ):
                group.create_task(forever(name, loop))

    # --- Orders -----------------------------------------------------------------------------

    def _take_up(self, group: asyncio.TaskGroup) -> None:
        """Follow what runs, and remember what was ordered, before anything is done."""
        for instance in self._parts.sight.all():
            self._supervise(instance.replica_id, group)
        if (kept := self._parts.store.desired()) is not None:
            orders = {order.replica_id: order for order in kept.replicas}
            self._desired = Desired(kept.incarnation, kept.revision, orders)

    async def _sync(self, group: asyncio.TaskGroup) -> None:
        """Poll for the desired state for ever."""
        near, far = Backoff(0.5, 30.0), Backoff(5.0, 120.0)
        while True:
            try:
                reply = await self._parts.link.sync(self._request())
            except Unreachable as error:
                await self._rest("cannot reach the control plane", error, near)
            except Unwelcome as error:
                self._hear()
                await self._rest("the control plane does not take this host", error, far)
            else:
                if near.failures or far.failures:
                    log.info("the control plane answers again")
                    self._reporter.start_over()
                near.reset()
                far.reset()
                self._hear()
                if reply is not None:
                    self._take(reply, group)
                await asyncio.sleep(SHORTEST_POLL_SECONDS)

    async def _rest(self, what: str, error: Exception, backoff: Backoff) -> None:
        level = logging.DEBUG if backoff.failures else logging.WARNING
        log.log(level, "%s: %s; replicas go on", what, error)
        await asyncio.sleep(backoff.next_seconds())

    def _request(self) -> SyncRequest:
        """Ask for everything at once in a new session, afterwards for what is newer."""
        if not self._epoch:
            return SyncRequest(session_id=self._session_id, wait_seconds=0.0)
        return SyncRequest(
            session_id=self._session_id,
            agent_epoch=self._epoch,
            known_incarnation=self._desired.incarnation,
            known_revision=self._desired.revision,
            wait_seconds=POLL_SECONDS,
        )

    def _take(self, reply: SyncReply, group: asyncio.TaskGroup) -> None:
        """Take a snapshot: keep it on the disk first, then let the supervisors obey it."""
        self._epoch = reply.agent_epoch
        self._reporter.take_epoch(reply.agent_epoch)
        self._reads.take(reply.requests, group)
        accepted = converge.accept(self._desired, reply)
        if accepted is None:
            log.warning("an older state (revision %d) was not taken", reply.revision)
        else:
            if accepted != self._desired or not self._may_act:
                self._parts.store.save_desired(reply)
            self._desired = accepted
            self._parts.relay.set_keys(reply.relay_key_sha256)
            self._parts.relay.set_weights_keys(reply.weights_key_sha256)
            self._parts.weights.borrow_from(reply.lenders)
            self._cache.obey(reply.cache_items, group)
        self._act(group)

    async def _act_when_alone(self, group: asyncio.TaskGroup) -> None:
        """Carry out the state on the disk once the control plane has been silent too long."""
        while not self._may_act:
            await asyncio.sleep(0.5)
            if self._is_away() and not self._may_act:
                log.warning("no answer from the control plane: going on from the state on disk")
                self._act(group)
        await asyncio.Event().wait()

    def _act(self, group: asyncio.TaskGroup) -> None:
        self._may_act = True
        for replica_id in self._desired.orders:
            try:
                standing.check_id(replica_id)
            except standing.Refused as refusal:
                log.error("an order was refused: %s", refusal)
                continue
            self._supervise(replica_id, group)
        for replica_id, supervisor in self._supervisors.items():
            supervisor.obey(self._desired.orders.get(replica_id))

    def _supervise(self, replica_id: str, group: asyncio.TaskGroup) -> None:
        if replica_id in self._supervisors:
            return
        order = self._desired.orders.get(replica_id) if self._may_act else None
        supervisor = Supervisor(replica_id, self._ground, order)
        self._supervisors[replica_id] = supervisor
        name = f"replica {replica_id}"
        self._tasks[replica_id] = group.create_task(forever(name, supervisor.run))

    async def _prune(self) -> None:
        """Forget replicas that no order names and of which nothing is left; keep routes fresh."""
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_SECONDS)
            if not self._may_act:
                continue
            for replica_id in [k for k, item in self._supervisors.items() if item.is_forgettable()]:
                self._tasks.pop(replica_id).cancel()
                del self._supervisors[replica_id]
                self._parts.journal.write(
                    Past(
                        replica_id=replica_id,
                        generation=0,
                        move=Move.FORGOTTEN,
                        at=self._parts.now(),
                    )
                )

    async def _lend(self) -> None:
        """Tell which weights lie here whole, soon after they came."""
        while True:
            found = await asyncio.to_thread(self._parts.weights.lendable)
            if found != self._lendable:
                self._lendable = found
                self._reporter.start_over()
                self._reporter.tell()
            await asyncio.sleep(LEND_INTERVAL_SECONDS)

    # --- What the parts ask -----------------------------------------------------------------

    def _make_ground(self) -> Ground:
        parts = self._parts
        return Ground(
            host_id=parts.host_id,
            run_root=parts.run_root,
            sight=parts.sight,
            journal=parts.journal,
            policy=parts.policy,
            weights=parts.weights,
            engine=parts.engine,
            engine_command=parts.engine_command,
            has_gpus=parts.host.has_gpus,
            compile_root=parts.compile_root,
            hardware=parts.host.hardware,
            missing_gpus=parts.host.missing_gpus,
            gpu_used_bytes=parts.host.gpu_used_bytes,
            memory_available_bytes=parts.host.memory_available_bytes,
            relay_url=lambda: parts.relay.url,
            is_away=self._is_away,
            tell=self._tell,
            now=parts.now,
            monotonic=parts.monotonic,
        )

    def _report_sources(self) -> Sources:
        parts = self._parts
        return Sources(
            statuses=lambda: {key: item.status for key, item in self._supervisors.items()},
            cache=self._cache.reports,
            samples=self._scraper.take,
            host_sample=lambda: parts.host.sample(parts.now()),
            inventory=self._inventory,
            heard=self._hear,
            now=parts.now,
            monotonic=parts.monotonic,
        )

    def _inventory(self) -> Inventory:
        parts = self._parts
        seen = parts.host.inventory(parts.engine_versions(), parts.relay.url)
        return msgspec.structs.replace(seen, weights=self._lendable)

    def _tell(self) -> None:
        """Something changed that others should know at once."""
        self._reporter.tell()
        self._route()

    def _route(self) -> None:
        """Let the relay pass to what runs; while that cannot be seen it stays as it is."""
        parts = self._parts
        if parts.sight.fault_of(parts.sight.primary.kind) is None:
            running = (item for item in parts.sight.all() if item.running)
            parts.relay.set_routes(
                {
                    item.replica_id: standing.address(
                        parts.run_root, item.replica_id, item.generation
                    )
                    for item in sorted(running, key=lambda item: item.generation)
                },
                self._own_paths(),
            )

    def _own_paths(self) -> dict[str, tuple[str, ...]]:
        """Return the paths that custom engines declare, by replica."""
        desired = self._parts.store.desired()
        orders = desired.replicas if desired is not None else ()
        return {o.replica_id: o.spec.custom.paths for o in orders if o.spec.custom is not None}

    def _relay_moved(self) -> None:
        """The relay listens somewhere else: the endpoints say so."""
        for supervisor in self._supervisors.values():
            supervisor.status.relay(self._parts.relay.url)
        self._reporter.tell()

    def _hear(self) -> None:
        """The control plane has answered: a poll, which may take long, or a report."""
        self._heard_at = self._parts.monotonic()

    def _is_away(self) -> bool:
        """Return whether the control plane has been silent for long enough to act alone."""
        return self._parts.monotonic() - self._heard_at > AWAY_AFTER_SECONDS

    def _attended(self) -> list[tuple[Status, Live | None]]:
        return [(item.status, item.live) for item in self._supervisors.values()]

    def _weights_in_use(self) -> set[str]:
        return {order.spec.weights.key for order in self._desired.orders.values()}


async def forever(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run `loop`; should it fail in a way that nobody foresaw, say so, rest, and run it again.

    Fenced passes: it ends the agent.
    """
    while True:
        try:
            await loop()
        except Fenced:
            raise
        except Exception:  # the agent's outermost loop: one fault stops no other loop
            log.exception("%s failed; it is tried again in %.0f s", name, CRASH_REST_SECONDS)
            await asyncio.sleep(CRASH_REST_SECONDS)
