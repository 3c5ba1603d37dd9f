"""Stop the replicas of a host on the host's own wish: `make down`, or the end of `make run`.

The journal says so, and the same orders start them again at the next start. Called by
`agents.__main__` while no supervisor runs.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents import standing
from agents.journal import Journal, Move, Past
from agents.runtimes.base import LABEL_HOST, Instance, Runtime, RuntimeFault

QUICK_SECONDS = 8.0
"""For all replicas to be gone when the one-machine supervisor ends."""
DRAIN_SECONDS = 90.0
"""For all replicas to finish what they stream and be gone."""
KILL_MARGIN_SECONDS = 2.0
"""Kept of the time for SIGKILL and for clearing up."""
FIND_SECONDS = 5.0
"""For a runtime to tell what is to be stopped."""
COUNT_SECONDS = 0.8
"""For a runtime to tell what stays: a daemon that hangs must not hold up the agent's end."""
DEFAULT_GRACE_SECONDS = 20.0

log = logging.getLogger("hearth.agent")


@dataclass
class End:
    """Ends the instances of `host_id`; `stopped` counts them."""

    host_id: str
    journal: Journal
    run_root: Path
    stopped: int = 0

    async def stop_all(self, runtimes: Sequence[Runtime], longest_seconds: float) -> bool:
        """Stop and remove all, at once; return whether all were gone in time."""
        found = [
            (runtime, item)
            for runtime in runtimes
            for item in await self._find(runtime, FIND_SECONDS)
        ]
        ends = (self._stop(runtime, item, longest_seconds) for runtime, item in found)
        return all(await asyncio.gather(*ends))

    async def count(self, runtimes: Sequence[Runtime]) -> int:
        """Return how many instances run."""
        found = [item for runtime in runtimes for item in await self._find(runtime, COUNT_SECONDS)]
        return sum(item.running for item in found)

    async def _find(self, runtime: Runtime, timeout_seconds: float) -> list[Instance]:
        try:
            async with asyncio.timeout(timeout_seconds):
                found = await runtime.find()
        except (RuntimeFault, TimeoutError) as fault:
            log.warning("cannot see the replicas of the %s runtime: %s", runtime.kind, fault)
            return []
        return [item for item in found if item.labels.get(LABEL_HOST) == self.host_id]

    async def _stop(self, runtime: Runtime, instance: Instance, longest_seconds: float) -> bool:
        folder = standing.run_dir(self.run_root, instance.replica_id, instance.generation)
        order = standing.started_order(folder)
        wished = order.stop_grace_seconds if order else DEFAULT_GRACE_SECONDS
        grace_seconds = min(wished, longest_seconds - KILL_MARGIN_SECONDS)
        self.journal.write(
            Past(
                replica_id=instance.replica_id,
                generation=instance.generation,
                move=Move.CLEARED,
                at=time.time(),
                runtime=runtime.kind,
            )
        )
        try:
            async with asyncio.timeout(longest_seconds):
                ended = await runtime.stop(instance, grace_seconds)
                await runtime.remove(ended)
        except (RuntimeFault, TimeoutError) as fault:
            log.error("%s was not stopped: %s", instance.name, fault or "too slow")
            return False
        standing.remove_run_dir(folder)
        self.stopped += 1
        return True
