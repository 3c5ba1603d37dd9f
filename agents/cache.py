"""Bring and remove what the control plane wants on this host ahead of time: weights and images.

One task an item, so that a slow download holds up nothing. What replicas need is brought by their
own supervisors; both go through the same locks, so nothing is fetched twice. Called by
`agents.agent`.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable

from agents import pages, standing
from agents.ground import Ground
from agents.runtimes.base import RuntimeFault
from agents.wire import (
    CacheKind,
    CacheOrder,
    CacheReport,
    CacheState,
    EngineKind,
    EngineSpec,
    Progress,
    WeightsRef,
)

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
                self._say(_report(order, CacheState.FAILED, reason=str(fault)))
                log.warning("cache item %s: %s", order.item_id, fault)
            await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])

    async def _carry_out(self, order: CacheOrder) -> None:
        if order.desired is CacheState.ABSENT:
            await self._remove(order)
            return
        self._say(_report(order, CacheState.FETCHING))
        if order.kind is CacheKind.WEIGHTS:
            await self._bring_weights(order)
        else:
            await self._bring_image(order)

    async def _bring_weights(self, order: CacheOrder) -> None:
        """Bring the weights, read them once into the page cache."""
        ref, weights = order.weights, self._ground.weights
        if ref is None:
            raise standing.Refused("the cache item names no weights")
        standing.check_weights(ref, self._ground.policy)
        was_here = weights.present(ref) is not None
        began = self._ground.monotonic()
        folder = await weights.ensure(ref, self._progress(order))
        took = self._ground.monotonic() - began
        await asyncio.to_thread(pages.bring, folder)
        self._say(
            CacheReport(
                item_id=order.item_id,
                state=CacheState.PRESENT,
                bytes=await asyncio.to_thread(weights.size_bytes, ref),
                seconds=None if was_here else round(took, 3),
                origin="" if was_here else weights.origin(ref),
            )
        )

    async def _bring_image(self, order: CacheOrder) -> None:
        """Pull the image (or install the engine, where replicas are processes)."""
        device = order.device or ("cuda" if self._ground.has_gpus else "cpu")
        policy = self._ground.policy
        engine = self._ground.engine(_plain_spec(device))
        image = order.image or policy.engine_images.get(device) or engine.default_image(device)
        if order.image:
            standing.check_image(order.image, policy)
        runtime = self._ground.sight.primary
        brought = _Told(self._progress(order))
        began = self._ground.monotonic()
        await runtime.prepare(EngineKind.VLLM, device, image, brought)
        took = round(self._ground.monotonic() - began, 3)
        self._say(
            CacheReport(
                item_id=order.item_id,
                state=CacheState.PRESENT,
                bytes=await runtime.image_bytes(EngineKind.VLLM, device, image) or 0,
                seconds=took if brought.anything else None,
                origin=image if brought.anything else "",
            )
        )

    async def _remove(self, order: CacheOrder) -> None:
        if order.kind is CacheKind.IMAGE or order.weights is None:
            raise standing.Refused("images are removed on the host itself: docker image rm")
        if order.weights.key in self._in_use():
            raise standing.Refused("these weights are in use by a replica of this host")
        await self._ground.weights.remove(order.weights.key)
        self._say(_report(order, CacheState.ABSENT))

    def _progress(self, order: CacheOrder) -> Callable[[Progress], None]:
        return lambda progress: self._say(_report(order, CacheState.FETCHING, progress=progress))

    def _say(self, report: CacheReport) -> None:
        before = self._reports.get(report.item_id)
        self._reports[report.item_id] = report
        if before is None or before.state is not report.state:
            self._ground.tell()


class _Told:
    """Passes progress on, and remembers whether anything had to be brought."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self.anything = False

    def __call__(self, progress: Progress) -> None:
        self.anything = True
        self._tell(progress)


def _report(
    order: CacheOrder, state: CacheState, *, progress: Progress | None = None, reason: str = ""
) -> CacheReport:
    return CacheReport(item_id=order.item_id, state=state, progress=progress, reason=reason)


def _plain_spec(device: str) -> EngineSpec:
    """Return a spec that says no more than which engine, for what is the same for all of it."""
    nothing = WeightsRef(key="", source="")
    return EngineSpec(engine=EngineKind.VLLM, device=device, weights=nothing, served_names=())
