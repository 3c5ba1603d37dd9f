"""Tell the control plane what is: changes at once, samples each second, everything every 10 s.

A report is made from the state of this moment, so one that was lost costs nothing: the next says
it again. What was acknowledged is remembered by version; after every silence a complete report
goes first. Samples are not kept for later. Run by `agents.agent`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from agents.inventory import lasting
from agents.link import Backoff, Link, Unreachable, Unwelcome
from agents.status import Status
from agents.wire import CacheReport, HostSample, Inventory, ReplicaReport, ReplicaSample, Report

SAMPLE_INTERVAL_SECONDS = 1.0
COMPLETE_INTERVAL_SECONDS = 10.0

log = logging.getLogger("hearth.agent")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a report takes its parts from; each is asked when a report is made."""

    statuses: Callable[[], Mapping[str, Status]]
    cache: Callable[[], tuple[CacheReport, ...]]
    samples: Callable[[], tuple[ReplicaSample, ...]]
    """Newest sample of each replica since the last call."""
    host_sample: Callable[[], HostSample]
    inventory: Callable[[], Inventory]
    heard: Callable[[], None]
    """Called when the control plane has answered a report, whatever it said."""
    now: Callable[[], float]
    monotonic: Callable[[], float]


class Reporter:
    """Sends the reports of one agent session, one at a time and in order."""

    def __init__(self, link: Link, sources: Sources) -> None:
        self._link = link
        self._sources = sources
        self._wake = asyncio.Event()
        self._epoch = 0
        self._seq = 0
        self._told: dict[str, int] = {}
        self._told_cache: tuple[CacheReport, ...] = ()
        self._told_inventory: tuple[object, ...] = ()
        self._complete_due = 0.0
        self._sample_due = 0.0
        self._backoff = Backoff(0.5, 15.0)

    def tell(self) -> None:
        """Let a report leave as soon as the last one is answered."""
        self._wake.set()

    def take_epoch(self, epoch: int) -> None:
        """Report under `epoch` from now on; reports rest until there is one."""
        if epoch != self._epoch:
            self._epoch, self._seq = epoch, 0
            self.start_over()

    async def run(self) -> None:
        """Report for ever. Raises Fenced when another agent took over."""
        while True:
            await self._pause(max(0.0, self._sample_due - self._sources.monotonic()))
            if not self._epoch:
                self._sample_due = self._sources.monotonic() + SAMPLE_INTERVAL_SECONDS
                continue
            try:
                await self._send()
                self._backoff.reset()
                self._sources.heard()
            except Unwelcome as error:
                self._sources.heard()
                await self._rest(error)
            except Unreachable as error:
                await self._rest(error)

    async def _rest(self, error: Exception) -> None:
        self.start_over()
        seconds = self._backoff.next_seconds()
        log.debug("report not delivered (%s), again in %.1f s", error, seconds)
        await asyncio.sleep(seconds)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _send(self) -> None:
        now = self._sources.monotonic()
        versions = {key: status.version for key, status in self._sources.statuses().items()}
        complete = now >= self._complete_due
        cache = self._sources.cache()
        inventory = self._sources.inventory() if complete else None
        if inventory is not None and lasting(inventory) == self._told_inventory:
            inventory = None
        sampling = now >= self._sample_due
        if sampling:
            self._sample_due = now + SAMPLE_INTERVAL_SECONDS
        self._seq += 1
        report = Report(
            agent_epoch=self._epoch,
            report_seq=self._seq,
            sent_at=self._sources.now(),
            replicas=self._replicas(versions, complete),
            complete=complete,
            cache_items=cache if complete or cache != self._told_cache else (),
            inventory=inventory,
            samples=self._sources.samples() if sampling else (),
            host_sample=self._sources.host_sample() if sampling else None,
        )
        answer = await self._link.report(report)
        if not answer.accepted:
            log.info("the control plane dropped a report: %s", answer.reason or "no reason given")
            self.start_over()
            return
        self._told, self._told_cache = versions, cache
        if complete:
            self._complete_due = now + COMPLETE_INTERVAL_SECONDS
        if inventory is not None:
            self._told_inventory = lasting(inventory)

    def _replicas(self, versions: dict[str, int], complete: bool) -> tuple[ReplicaReport, ...]:
        statuses = self._sources.statuses()
        return tuple(
            statuses[key].report
            for key, version in versions.items()
            if complete or self._told.get(key) != version
        )

    def start_over(self) -> None:
        """Make the next report a complete one, with the inventory."""
        self._complete_due = 0.0
        self._told_inventory = ()
