"""The routing tables in one web process, kept fresh while a gateway waits: one check for all.

Loading all that the tables are made from costs milliseconds, so it is done when a gateway asks,
when the doorbell `table` rings, and when the marks in the database say that something happened.
The marks are read every second for as long as somebody waits, with one small query; so a lost ring
costs a second. Called by `endpoints`.
"""

import asyncio
import time

from channels.db import database_sync_to_async

from apps.lib import clock, doorbell
from apps.traffic import actions, queries
from apps.traffic.routing import Numbered

CHECK_SECONDS = 1.0
LOAD_GAP_SECONDS = 0.1
"""Rings that follow each other faster than this are answered together."""
LOADED_FOR_SECONDS = 15.0
"""All is loaded again after this, for changes that leave no mark."""


class Tables:
    """The newest content this process knows. Belongs to one event loop."""

    def __init__(self, listener: doorbell.Listener) -> None:
        self.newest: Numbered | None = None
        self._listener = listener
        self._loading = asyncio.Lock()
        self._load_began_at = float("-inf")
        self._marked_at = float("-inf")
        self._marks: queries.Marks | None = None

    async def other_than(self, known: int, wait_seconds: float) -> Numbered:
        """Return the newest content at once unless its revision is `known`; else wait for another.

        After `wait_seconds` returns the newest one there is. Raises django.db.DatabaseError.
        """
        deadline = time.monotonic() + wait_seconds
        newest = await self._load(time.monotonic())
        while newest.revision == known and (left := deadline - time.monotonic()) > 0:
            # Listening begins before the check, so that a ring in between is not lost.
            rung = asyncio.create_task(
                self._listener.wait(doorbell.TABLE, min(left, CHECK_SECONDS))
            )
            try:
                newest = await self._check()
                if newest.revision == known and await rung:
                    newest = await self._load(time.monotonic())
            finally:
                rung.cancel()
        return newest

    async def _check(self) -> Numbered:
        """Return the newest content, loaded only if the marks moved or it is old."""
        now = time.monotonic()
        if self.newest is None or now - self._load_began_at > LOADED_FOR_SECONDS:
            return await self._load(now)
        if now - self._marked_at < CHECK_SECONDS / 2:
            return self.newest
        self._marked_at = now
        marks = await database_sync_to_async(queries.marks)()
        return self.newest if marks == self._marks else await self._load(now)

    async def _load(self, not_before: float) -> Numbered:
        """Return the content as of a load that began at `not_before` or later."""
        async with self._loading:
            if self.newest is not None and self._load_began_at >= not_before:
                return self.newest
            gap = self._load_began_at + LOAD_GAP_SECONDS - time.monotonic()
            await asyncio.sleep(max(0.0, gap))
            self._load_began_at = time.monotonic()
            self._marks, self.newest = await database_sync_to_async(_load)()
            return self.newest


def _load() -> tuple[queries.Marks, Numbered]:
    marks = queries.marks()  # first: what changes while the rest is read moves them again
    return marks, actions.refresh_table(clock.now())
