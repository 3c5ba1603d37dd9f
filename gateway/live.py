"""Pushes live numbers to the control plane: every second, and soon after any change.

What is lost is never sent again: counters are cumulative and gauges are of now. Called by
`gateway.program`.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from gateway.core import Core
from gateway.link import Link, LinkError
from gateway.ship import Shipper
from gateway.wire import Live, encode

PERIOD_SECONDS = 1.0
LEAST_GAP_SECONDS = 0.2
_ANSWER_SECONDS = 5.0

log = logging.getLogger("gateway.live")


@dataclass(slots=True)
class Reporter:
    """Tells the control plane what one gateway does now."""

    core: Core
    link: Link
    shipper: Shipper
    gateway_id: str
    host: str
    listen: str
    started_at: float
    seq: int = 0

    async def run(self) -> None:
        """Push for ever."""
        changed = asyncio.Event()
        self.core.on_change = changed.set
        is_away = False
        while True:
            began = time.monotonic()
            changed.clear()
            try:
                await self.push()
                is_away = False
            except LinkError as error:
                if not is_away:
                    log.warning("live numbers: %s", error)
                is_away = True
            spent = time.monotonic() - began
            await asyncio.sleep(max(0.0, LEAST_GAP_SECONDS - spent))
            if is_away:
                await asyncio.sleep(PERIOD_SECONDS - LEAST_GAP_SECONDS)
            elif not changed.is_set():
                await _wait(changed, PERIOD_SECONDS - LEAST_GAP_SECONDS)

    async def push(self) -> None:
        """Send the numbers of now. Raises LinkError."""
        self.seq += 1
        status, _ = await self.link.post(
            "/gateway/v1/live", encode(self.snapshot()), timeout_seconds=_ANSWER_SECONDS
        )
        if status != 200:
            raise LinkError(f"/gateway/v1/live: HTTP {status}")
        self.core.detours.home_at = time.monotonic()

    def snapshot(self) -> Live:
        """Return the numbers of now."""
        deployments = self.core.fleet.deployments.values()
        return Live(
            gateway_id=self.gateway_id,
            started_at=self.started_at,
            seq=self.seq,
            host=self.host,
            listen=self.listen,
            table_revision=self.core.table_revision,
            deployments={d.name: d.tally.counts(d.queue.length) for d in deployments},
            replicas={r.id: r.tally.counts() for d in deployments for r in d.replicas.values()},
            ring=self.core.to_wake(),
            spool_records=self.shipper.waiting_records,
        )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
