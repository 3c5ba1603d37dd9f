"""Answer the control plane's reads: log tails, each within its deadline. Never changes state."""

import asyncio
import logging
from collections.abc import Callable

from agents.link import Fenced, Link, Unreachable, Unwelcome
from agents.runtimes.base import RuntimeFault
from agents.sight import Sight
from agents.status import clipped
from agents.wire import ReadOrder, ReadReply

LONGEST_SECONDS = 10.0
SHORTEST_SECONDS = 1.0
"""A deadline is another machine's clock: however far off, a read gets at least this long."""
MOST_LINES = 2000
REMEMBERED = 256
"""Ids of reads already answered; a poll may bring the same one twice."""

log = logging.getLogger("hearth.agent")


class Reads:
    """Answers each read once, each in a task of its own in `group`."""

    def __init__(self, link: Link, sight: Sight, now: Callable[[], float]) -> None:
        self._link = link
        self._sight = sight
        self._now = now
        self._seen: dict[str, None] = {}

    def take(self, orders: tuple[ReadOrder, ...], group: asyncio.TaskGroup) -> None:
        """Begin to answer those of `orders` that are new."""
        for order in orders:
            if order.request_id in self._seen:
                continue
            self._seen[order.request_id] = None
            if len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
            group.create_task(self._answer(order))

    async def _answer(self, order: ReadOrder) -> None:
        seconds = min(LONGEST_SECONDS, max(SHORTEST_SECONDS, order.deadline_at - self._now()))
        try:
            async with asyncio.timeout(seconds):
                await self._link.reply(await self._read(order), seconds)
        except (TimeoutError, Unreachable, Unwelcome, Fenced) as error:
            log.info("read %s was not answered: %s", order.request_id, error or "too late")

    async def _read(self, order: ReadOrder) -> ReadReply:
        instances = self._sight.of_replica(order.replica_id)
        newest = max(instances, key=lambda item: item.generation, default=None)
        if newest is None:
            return ReadReply(request_id=order.request_id, error="it has no log on this host yet")
        lines = max(1, min(order.lines, MOST_LINES))
        try:
            tail = await self._sight.runtime_of(newest).log_tail(newest, lines)
        except RuntimeFault as fault:
            return ReadReply(request_id=order.request_id, error=str(fault))
        return ReadReply(request_id=order.request_id, lines=clipped(tail))
