"""Writes readings to Redis in batches: one call for all that arrive within a moment.

With 200 hosts reporting each second, a call for each would take more time than all the rest of
their requests. Of one source only the newest reading of a batch is written. Every caller learns
whether its batch was kept. Called by `live`.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import redis
import redis.exceptions

from apps.lib.redis import async_client

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.03
"""How long the first reading of a batch waits for others; what pages show is later by as much."""
TIMEOUT_SECONDS = 2.0

UNREACHABLE = (redis.RedisError, OSError, TimeoutError)

_SCRIPT = """
for i = 1, #KEYS, 2 do
  local source, value = ARGV[i + 2], ARGV[i + 3]
  redis.call('HSET', KEYS[i], source, value)
  redis.call('EXPIRE', KEYS[i], ARGV[1])
  if redis.call('HSETNX', KEYS[i + 1], source, value) == 1 then
    redis.call('EXPIRE', KEYS[i + 1], ARGV[2])
  end
end
"""
_SHA1 = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

type Place = tuple[str, str, str]
"""Key of the newest readings, key of the slot's first readings, source."""


class Batch:
    """Readings that are written together."""

    def __init__(self, newest_seconds: int, slot_seconds: int) -> None:
        self._seconds = newest_seconds, slot_seconds
        self._readings: dict[Place, bytes] = {}
        self.is_open = True
        self.written = asyncio.create_task(self._write())

    def add(self, place: Place, value: bytes) -> None:
        """Take a reading; only while the batch is open."""
        self._readings[place] = value

    async def _write(self) -> bool:
        """Wait for more readings, write them all, and tell whether that worked."""
        await asyncio.sleep(BATCH_SECONDS)
        self.is_open = False
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await _run(self._readings, self._seconds)
        except UNREACHABLE as error:
            logger.warning("live numbers of %d sources not kept: %s", len(self._readings), error)
            return False
        return True


_open: WeakKeyDictionary[asyncio.AbstractEventLoop, Batch] = WeakKeyDictionary()


async def put(place: Place, value: bytes, *, newest_seconds: int, slot_seconds: int) -> bool:
    """Write one reading with the next batch; return whether it was kept. Never raises.

    The newest readings go `newest_seconds` after the last one, a slot's after `slot_seconds`.
    """
    loop = asyncio.get_running_loop()
    batch = _open.get(loop)
    if batch is None or not batch.is_open:
        batch = _open[loop] = Batch(newest_seconds, slot_seconds)
    batch.add(place, value)
    # Shielded: a caller that goes away must not take the others' batch with it.
    return await asyncio.shield(batch.written)


async def _run(readings: Mapping[Place, bytes], seconds: tuple[int, int]) -> None:
    """Run the script by its digest; Redis forgets scripts when it restarts."""
    keys: list[str] = []
    arguments: list[int | str | bytes] = [*seconds]
    for (newest, slot, source), value in readings.items():
        keys += (newest, slot)
        arguments += (source, value)
    connection = async_client()
    try:
        await connection.evalsha(_SHA1, len(keys), *keys, *arguments)
    except redis.exceptions.NoScriptError:
        await connection.eval(_SCRIPT, len(keys), *keys, *arguments)
