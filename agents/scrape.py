"""Each second, read the numbers of every engine that is ready: its `/metrics` and its memory.

A scrape that does not end within its second is dropped, never queued. Run by `agents.agent`; the
reporter takes the newest samples.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import httpx
import msgspec

from agents.carry import Live
from agents.runtimes.base import RuntimeFault
from agents.sight import Sight
from agents.status import Status
from agents.wire import ObservedPhase, ReplicaSample

INTERVAL_SECONDS = 1.0
TIMEOUT_SECONDS = 0.9
MEMORY_EVERY = 5
"""Memory is read every so many seconds: summing the pages of an engine costs milliseconds."""

log = logging.getLogger("hearth.agent")


class Scraper:
    """Keeps the newest sample of each replica that `replicas` yields."""

    def __init__(
        self,
        sight: Sight,
        replicas: Callable[[], Iterable[tuple[Status, Live | None]]],
        now: Callable[[], float],
    ) -> None:
        self._sight = sight
        self._replicas = replicas
        self._now = now
        self._samples: dict[str, ReplicaSample] = {}
        self._round = 0

    def take(self) -> tuple[ReplicaSample, ...]:
        """Return the samples since the last call, one a replica."""
        samples, self._samples = tuple(self._samples.values()), {}
        return samples

    async def run(self) -> None:
        """Scrape for ever."""
        while True:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(INTERVAL_SECONDS))
                for status, live in self._replicas():
                    if live is not None and status.phase is ObservedPhase.READY:
                        group.create_task(self._scrape(status, live))
            self._round += 1

    async def _scrape(self, status: Status, live: Live) -> None:
        replica_id = status.report.replica_id
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await live.client.get(live.engine.metrics_path)
                await self._read_memory(status, live)
        except (httpx.HTTPError, TimeoutError, RuntimeFault) as error:
            log.debug("no numbers of replica %s this second: %s", replica_id, error)
            return
        if not answer.is_success:
            return
        sample = live.engine.sample(replica_id, self._now(), answer.text)
        memory_bytes = status.report.memory_bytes
        self._samples[replica_id] = msgspec.structs.replace(sample, memory_bytes=memory_bytes)
        if status.report.kv_cache_tokens is None:
            status.capacity(live.engine.kv_cache_tokens(answer.text))

    async def _read_memory(self, status: Status, live: Live) -> None:
        if self._round % MEMORY_EVERY == 0 or status.report.memory_bytes is None:
            runtime = self._sight.runtime_of(live.instance)
            status.memory(await runtime.memory_bytes(live.instance))
