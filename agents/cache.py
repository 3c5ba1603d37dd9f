"""Bring and remove what the control plane wants on this host ahead of time: weights and images.

One task an item, so that a slow download holds up nothing. What replicas need is brought by their
own supervisors; both go through the same locks, so nothing is fetched twice. Called by
`agents.agent`.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable

from agents import standing
from agents.ground import Ground
from agents.runtimes.base import RuntimeFault
from agents.wire import CacheKind, CacheOrder, CacheReport, CacheState, EngineKind, Progress

RETRY_SECONDS = (5.0, 15.0, 60.0, 300.0)
"""Rests after an item that could not be brought."""

log = logging.getLogger("hearth.agent")


class Cache:
    """Converges the cache items of one host; `in_use` are the weights keys that replicas need."""

    def __init__(self, ground: Ground, in_use: Callable[[], Iterable[str]]) -> None:
        self._ground = ground
        self._in_use = in_use
        self._orders: dict[str, CacheOrder] = {}
        self._reports: dict[str, CacheReport] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def reports(self) -> tuple[CacheReport, ...]:
        return tuple(self._reports.values())

    def obey(self, orders: tuple[CacheOrder, ...], group: asyncio.TaskGroup) -> None:
        """Take the whole list: begin what is new, break off what is not wanted any more."""
        wanted = {order.item_id: order for order in orders}
        for item_id in [key for key, order in self._orders.items() if wanted.get(key) != order]:
            self._tasks.pop(item_id).cancel()
            self._reports.pop(item_id, None)
        for item_id, order in wanted.items():
            if item_id not in self._tasks:
                self._tasks[item_id] = group.create_task(self._converge(order))
        self._orders = wanted

    async def _converge(self, order: CacheOrder) -> None:
        """Try until it is done; a failure is told and tried again after a rest."""
        for attempt in itertools.count():
            try:
                await self._carry_out(order)
                return
            except (RuntimeFault, standing.Refused) as fault:
                self._say(order, CacheState.FAILED, reason=str(fault))
                log.warning("cache item %s: %s", order.item_id, fault)
            await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])

    async def _carry_out(self, order: CacheOrder) -> None:
        if order.desired is CacheState.ABSENT:
            await self._remove(order)
            return
        self._say(order, CacheState.FETCHING)
        if order.kind is CacheKind.WEIGHTS:
            await self._bring_weights(order)
        else:
            await self._bring_image(order)
        self._say(order, CacheState.PRESENT, size_bytes=order.weights.bytes if order.weights else 0)

    async def _bring_weights(self, order: CacheOrder) -> None:
        if order.weights is None:
            raise standing.Refused("the cache item names no weights")
        standing.check_weights(order.weights, self._ground.policy)
        await self._ground.weights.ensure(order.weights, self._progress(order))

    async def _bring_image(self, order: CacheOrder) -> None:
        standing.check_image(order.image, self._ground.policy)
        device = "cuda" if self._ground.has_gpus else "cpu"
        runtime = self._ground.sight.primary
        await runtime.prepare(EngineKind.VLLM, device, order.image, self._progress(order))

    async def _remove(self, order: CacheOrder) -> None:
        if order.kind is CacheKind.IMAGE or order.weights is None:
            raise standing.Refused("images are removed on the host itself: docker image rm")
        if order.weights.key in self._in_use():
            raise standing.Refused("these weights are in use by a replica of this host")
        await self._ground.weights.remove(order.weights.key)
        self._say(order, CacheState.ABSENT)

    def _progress(self, order: CacheOrder) -> Callable[[Progress], None]:
        return lambda progress: self._say(order, CacheState.FETCHING, progress=progress)

    def _say(
        self, order: CacheOrder, state: CacheState, *,
        progress: Progress | None = None, reason: str = "", size_bytes: int = 0,
    ) -> None:  # fmt: skip
        before = self._reports.get(order.item_id)
        self._reports[order.item_id] = CacheReport(
            item_id=order.item_id, state=state, progress=progress, reason=reason, bytes=size_bytes
        )
        if before is None or before.state is not state:
            self._ground.tell()
