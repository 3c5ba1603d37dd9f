"""Tells open pages that something in flight has changed, not more often than they can show it."""

import asyncio

from apps.lib import live
from gateway.wire import Live

PULSE_SECONDS = 0.2
"""The first change is told at once, further ones together after this time."""


class Pulse:
    """Compares each gateway's message with its last one. Belongs to one event loop."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, tuple[int, int]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def feel(self, message: Live) -> None:
        """Ring the pages if `message` differs in what is in flight or queued."""
        now = {name: (c.in_flight, c.queued) for name, c in message.deployments.items()}
        if self._last.get(message.gateway_id, {}) == now:
            return
        self._last[message.gateway_id] = now
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while self._again:
            self._again = False
            await live.send(live.FLEET, "numbers")
            await asyncio.sleep(PULSE_SECONDS)
