"""Doorbells: "topic X changed", by Redis publish. Lossy by design; truth is in the database.

Every listener also looks by itself after a timeout, so a lost ring costs latency, never an order.
Topics: `controller` (something to reconcile), `host:<id>` (its desired state), `table` (routing).
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator

import redis
import redis.asyncio
from django.db import transaction

from apps.lib.redis import async_client, client

logger = logging.getLogger(__name__)

CHANNEL = "hearth:doorbell"
"""The one Redis channel; the message is the topic."""

CONTROLLER = "controller"
TABLE = "table"


def host_topic(host_id: object) -> str:
    return f"host:{host_id}"


def ring(*topics: str) -> None:
    """Ring after the current transaction commits (at once outside one). Never raises."""
    transaction.on_commit(lambda: _publish(topics), robust=True)


def _publish(topics: tuple[str, ...]) -> None:
    try:
        pipe = client().pipeline(transaction=False)
        for topic in topics:
            pipe.publish(CHANNEL, topic)
        pipe.execute()
    except redis.RedisError as error:
        logger.warning("doorbell not rung: %s", error)


class Ear:
    """Remembers a ring until it is asked for."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def rings(self, timeout_seconds: float) -> bool:
        """Return True at once if it rang since the last time, else when it does; False after
        `timeout_seconds`."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout_seconds)
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Listener:
    """Waits for topics in one event loop; one Redis subscription serves all waiters."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def wait(self, topic: str, timeout_seconds: float) -> bool:
        """Return True when `topic` rang, False after `timeout_seconds`."""
        with self.hears(topic) as ear:
            return await ear.rings(timeout_seconds)

    @contextlib.contextmanager
    def hears(self, topic: str) -> Iterator["Ear"]:
        """Listen to `topic` all the while: who looks in between misses no ring."""
        event = asyncio.Event()
        self._events[topic].add(event)
        try:
            yield Ear(event)
        finally:
            self._events[topic].discard(event)
            if not self._events[topic]:
                del self._events[topic]

    def heard(self, topic: str) -> None:
        """Wake every waiter of `topic`."""
        for event in self._events.get(topic, ()):
            event.set()

    async def run(self) -> None:
        """Listen for ever; a lost connection is retried each second, and then everyone is woken."""
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                await self._listen()
            await asyncio.sleep(1)
            for topic in list(self._events):
                self.heard(topic)

    async def _listen(self) -> None:
        async with async_client().pubsub() as subscription:
            await subscription.subscribe(CHANNEL)
            async for message in subscription.listen():
                if message["type"] == "message":
                    self.heard(message["data"].decode())
