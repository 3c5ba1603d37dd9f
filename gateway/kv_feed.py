"""Hears the engines' KV-cache events over ZeroMQ and keeps each deployment's residency by them.

One feed a replica that tells its addresses. A batch has a number; a feed begins by asking the
engine for all batches from the first on and asks again for what it missed, on a gap and whenever
nothing came for `SILENCE_SECONDS`, which is also how it sees that the engine is there. An engine
keeps its last 10,000 batches: if the first ones are gone, what it holds is never known for sure,
and the gateway's own index counts until the engine starts anew. Needs pyzmq (the extra
`kv-events`); without it one line in the log says so. Called by `gateway.program`.
"""

import asyncio
import importlib.util
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from gateway.core import Core
from gateway.fleet import Fleet
from gateway.kv_events import Cleared, EventError, decode
from gateway.residency import Residency
from gateway.wire import KvEvents

if TYPE_CHECKING:
    import zmq.asyncio

LOOK_SECONDS = 0.5
"""How often the table is looked at for replicas that came or went."""
SILENCE_SECONDS = 5.0
REPLAY_SECONDS = 3.0
"""An engine answers within 0.1 s when idle; its publisher serves events first."""
PAUSE_SECONDS = 1.0
MOST_WAITING = 20_000
"""Batches that may wait in the socket; what is beyond is lost, seen as a gap, and asked for."""
_END = (-1).to_bytes(8, "big", signed=True)

log = logging.getLogger("gateway.kv_feed")

type _Wanted = tuple[str, str, KvEvents]
"""Deployment, replica, addresses."""


async def follow_events(core: Core) -> None:
    """Run a feed for each replica of the table that tells of its cache, for ever."""
    is_told = False
    feeds: dict[_Wanted, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            wanted = _wanted(core.fleet)
            if wanted and importlib.util.find_spec("zmq") is None:
                if not is_told:
                    log.warning("replicas tell of their KV cache, but pyzmq is not installed")
                is_told = True
                wanted = {}
            for gone in feeds.keys() - wanted.keys():
                feeds.pop(gone).cancel()
            for new in wanted.keys() - feeds.keys():
                feeds[new] = group.create_task(Feed(wanted[new], new[1], new[2]).run())
            await asyncio.sleep(LOOK_SECONDS)


def _wanted(fleet: Fleet) -> dict[_Wanted, Residency]:
    return {
        (deployment.name, replica.id, replica.route.kv_events): deployment.residency
        for deployment in fleet.deployments.values()
        if deployment.residency is not None
        for replica in deployment.replicas.values()
        if replica.route.kv_events is not None
    }


class _Silent(Exception):
    """The engine does not answer."""


class Feed:
    """The events of one replica."""

    def __init__(self, residency: Residency, replica: str, addresses: KvEvents) -> None:
        self._residency = residency
        self._replica = replica
        self._addresses = addresses
        self._next = 0
        """Number of the batch that comes next."""
        self._has_all = True
        """No batch since the engine's start, or since it dropped everything, was missed."""

    async def run(self) -> None:
        """Follow until cancelled."""
        import zmq.asyncio  # noqa: PLC0415 - an extra; nothing else of the gateway needs it

        context = zmq.asyncio.Context.instance()
        try:
            while True:
                try:
                    await self._follow(context)
                except (_Silent, EventError, zmq.ZMQError) as error:
                    log.warning("replica %s: KV events: %s", self._replica, error)
                self._residency.complete(self._replica, is_complete=False)
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._residency.forget(self._replica)

    async def _follow(self, context: "zmq.asyncio.Context") -> None:
        """Take in events until the engine falls silent. Raises _Silent, EventError, ZMQError."""
        import zmq  # noqa: PLC0415 - as above

        self._residency.reset(self._replica)
        self._next, self._has_all = 0, True
        with context.socket(zmq.SUB) as events:
            events.set_hwm(MOST_WAITING)
            events.linger = 0
            events.subscribe(b"")
            events.connect(self._addresses.endpoint)
            await self._catch_up(context)
            while True:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        _topic, number, payload = await events.recv_multipart()
                except TimeoutError:
                    await self._catch_up(context)
                    continue
                place = int.from_bytes(number, "big")
                if place < self._next - 1:
                    raise EventError("the engine began anew")
                if place > self._next:
                    await self._catch_up(context)
                self._take(place, payload)

    async def _catch_up(self, context: "zmq.asyncio.Context") -> None:
        """Ask for the batches from the next one on. Raises _Silent."""
        async with aclosing(self._replay(context)) as batches:
            async for place, payload in batches:
                if place > self._next:
                    self._has_all = False
                    self._next = place
                self._take(place, payload)
        self._residency.complete(self._replica, is_complete=self._has_all)

    async def _replay(self, context: "zmq.asyncio.Context") -> AsyncGenerator[tuple[int, bytes]]:
        import zmq  # noqa: PLC0415 - as above

        with context.socket(zmq.DEALER) as asking:
            asking.linger = 0
            asking.connect(self._addresses.replay_endpoint)
            await asking.send_multipart([b"", self._next.to_bytes(8, "big")])
            while True:
                try:
                    async with asyncio.timeout(REPLAY_SECONDS):
                        *_, number, payload = await asking.recv_multipart()
                except TimeoutError as error:
                    raise _Silent(f"no answer in {REPLAY_SECONDS:g} s") from error
                if number == _END:
                    return
                yield int.from_bytes(number, "big"), payload

    def _take(self, place: int, payload: bytes) -> None:
        if place < self._next:
            return  # came by both ways
        events = decode(payload)
        if any(isinstance(event, Cleared) for event in events):
            self._has_all = True  # what came before does not count any more
        self._residency.apply(self._replica, events)
        self._next = place + 1
