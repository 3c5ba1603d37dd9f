"""The routing tables in one web process, kept fresh while a gateway waits: one check for all.

A check costs three queries. It is made when a gateway asks, when the doorbell `table` rings, and
every second for as long as somebody waits; so a lost ring costs a second. Called by `endpoints`.
"""

import asyncio
import time

from channels.db import database_sync_to_async

from apps.lib import clock, doorbell
from apps.traffic import actions
from apps.traffic.routing import Numbered

CHECK_SECONDS = 1.0


class Tables:
    """The newest content this process knows. Belongs to one event loop."""

    def __init__(self, listener: doorbell.Listener) -> None:
        self.newest: Numbered | None = None
        self._listener = listener
        self._checking = asyncio.Lock()
        self._check_began_at = float("-inf")

    async def other_than(self, known: int, wait_seconds: float) -> Numbered:
        """Return the newest content at once unless its revision is `known`; else wait for another.

        After `wait_seconds` returns the newest one there is. Raises django.db.DatabaseError.
        """
        deadline = time.monotonic() + wait_seconds
        newest = await self._check(time.monotonic())
        while newest.revision == known and (left := deadline - time.monotonic()) > 0:
            # Listening begins before the check, so that a ring in between is not lost.
            rung = asyncio.create_task(
                self._listener.wait(doorbell.TABLE, min(left, CHECK_SECONDS))
            )
            try:
                newest = await self._check(time.monotonic() - CHECK_SECONDS / 2)
                if newest.revision == known and await rung:
                    newest = await self._check(time.monotonic())
            finally:
                rung.cancel()
        return newest

    async def _check(self, not_before: float) -> Numbered:
        """Return the newest content, as of a check that began at `not_before` or later."""
        async with self._checking:
            if self.newest is None or self._check_began_at < not_before:
                began_at = time.monotonic()
                self.newest = await database_sync_to_async(actions.refresh_table)(clock.now())
                self._check_began_at = began_at
            return self.newest
