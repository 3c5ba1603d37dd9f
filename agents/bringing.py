"""Bring what an order needs to this host and describe the launch: engine, then weights.

Everything here may be cut short and asked again: what was fetched stays fetched. Nothing is
started. Called by `agents.carry`.
"""

import asyncio
from pathlib import Path

from agents import compiled, pages, seating, standing
from agents.engines import custom_environment, environment
from agents.engines.base import Place
from agents.ground import Ground
from agents.runtimes.base import Launch, Runtime
from agents.stages import StageClock
from agents.status import Status
from agents.wire import EngineKind, ObservedPhase, Progress, ReplicaOrder, Rung, RuntimeKind


async def bring(order: ReplicaOrder, ground: Ground, status: Status) -> Launch:
    """Return how to start `order` here once its engine and weights are on the disk.

    Raises standing.Refused if this host does not allow it or the settings cannot be, RuntimeFault
    if something cannot be brought.
    """
    runtime = ground.sight.starter_of(order.spec.engine)
    engine = ground.engine(order.spec)
    image = order.spec.image or ground.policy.engine_images.get(order.spec.device, "")
    image = image or engine.default_image(order.spec.device)
    standing.check(order, image, runtime.kind, ground.policy)
    status.enter(ObservedPhase.FETCHING, ground.now())
    clock = StageClock()
    clock.begin("image" if runtime.kind is RuntimeKind.DOCKER else "engine", ground.monotonic())
    status.stage(clock.stage)
    told = _Told(status)
    command, version = await _engine_here(order, ground, told, runtime, image)
    status.engine(version)
    if told.most:
        status.brought(clock.stage, told.most)
    clock.begin("weights", ground.monotonic())
    status.stage(clock.stage)
    weights_dir, was_here = await _bring_weights(order, ground, status)
    status.came_from(Rung.CACHED if was_here and not told.anything else Rung.COLD)
    more = [adapter.weights for adapter in order.spec.adapters]
    adapters = [await ground.weights.ensure(ref, status.progress) for ref in more]
    draft = order.spec.draft
    draft_dir = None if draft is None else await ground.weights.ensure(draft, status.progress)
    clock.end(ground.monotonic())
    status.stages(clock.seconds)
    place = Place(
        host_id=ground.host_id,
        runtime=runtime.kind,
        weights_dir=weights_dir,
        adapter_dirs=tuple(adapters),
        draft_dir=draft_dir,
        run_dir=standing.make_run_dir(ground.run_root, order),
        engine_command=command,
        image=image,
        cache_dir=await asyncio.to_thread(_compiled, order, ground, version, runtime.kind),
        interface=seating.interface_of(order.seat.own_address) if order.seat else "",
    )
    check_devices(order, ground)  # again: weights may have taken an hour
    try:
        return engine.launch(order, place)
    except ValueError as error:
        raise standing.Refused(f"the settings of {order.deployment!r}: {error}") from error


def check_devices(order: ReplicaOrder, ground: Ground) -> None:
    """Raise Refused before anything is begun on devices that are not, or not all, here."""
    if order.seat is not None:
        seating.check(order, order.seat)
    if gone := ground.missing_gpus(order.spec.gpu_uuids):
        raise standing.GpuGone(f"GPU {', '.join(gone)} is gone from this host; nothing was started")


def _compiled(
    order: ReplicaOrder, ground: Ground, version: str, runtime: RuntimeKind
) -> Path | None:
    if order.spec.engine is not EngineKind.VLLM:
        return None
    compiled.prune(ground.compile_root)
    hardware = ground.hardware(order.spec.gpu_uuids)
    return compiled.folder(ground.compile_root, order.spec, version, hardware, runtime)


async def _bring_weights(order: ReplicaOrder, ground: Ground, status: Status) -> tuple[Path, bool]:
    """Return the folder of the weights, and whether they were on the disk already."""
    if order.spec.engine is EngineKind.SIMULATOR:  # which only says that it has weights
        return ground.run_root, True
    ref = order.spec.weights
    was_here = ground.weights.present(ref) is not None
    folder = await ground.weights.ensure(ref, status.progress)
    await asyncio.to_thread(pages.bring, folder)
    size = await asyncio.to_thread(ground.weights.size_bytes, ref)
    status.brought("load" if was_here else "weights", size)
    return folder, was_here


class _Told:
    """Passes progress on, and remembers whether anything had to be brought."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self.anything = False
        self.most = 0
        """Bytes, or the engine's own steps where it counts those."""

    def __call__(self, progress: Progress) -> None:
        self.anything = True
        self.most = max(self.most, progress.done)
        self._status.progress(progress)


async def _engine_here(
    order: ReplicaOrder, ground: Ground, told: "_Told", runtime: Runtime, image: str
) -> tuple[tuple[str, ...], str]:
    """Bring the engine; return how it is started, which an image knows by itself, and which."""
    declared = order.spec.custom
    if declared is not None and runtime.kind is RuntimeKind.PROCESS:
        programs = await custom_environment.ensure(
            environment.default_root(), declared.requirements, told
        )
        return (str(programs),), declared.requirements[0].partition("==")[2]
    version = await runtime.prepare(order.spec.engine, order.spec.device, image, told)
    if runtime.kind is RuntimeKind.DOCKER:
        return (), version
    return ground.engine_command(order.spec.engine, order.spec.device), version
