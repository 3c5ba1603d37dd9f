"""Bring what an order needs to this host and describe the launch: engine, then weights.

Everything here may be cut short and asked again: what was fetched stays fetched. Nothing is
started. Called by `agents.carry`.
"""

from agents import standing
from agents.engines import custom_environment, environment
from agents.engines.base import Place
from agents.ground import Ground
from agents.runtimes.base import Launch, Runtime
from agents.stages import StageClock
from agents.status import Status
from agents.wire import EngineKind, ObservedPhase, ReplicaOrder, RuntimeKind


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
    command = await _engine_here(order, ground, status, runtime, image)
    clock.begin("weights", ground.monotonic())
    status.stage(clock.stage)
    weights_dir = ground.run_root
    if order.spec.engine is not EngineKind.SIMULATOR:  # which only says that it has weights
        weights_dir = await ground.weights.ensure(order.spec.weights, status.progress)
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
    )
    try:
        return engine.launch(order, place)
    except ValueError as error:
        raise standing.Refused(f"the settings of {order.deployment!r}: {error}") from error


async def _engine_here(
    order: ReplicaOrder, ground: Ground, status: Status, runtime: Runtime, image: str
) -> tuple[str, ...]:
    """Bring the engine; return how it is started, which an image knows by itself."""
    declared = order.spec.custom
    if declared is not None and runtime.kind is RuntimeKind.PROCESS:
        programs = await custom_environment.ensure(
            environment.default_root(), declared.requirements, status.progress
        )
        status.engine(declared.requirements[0].partition("==")[2])
        return (str(programs),)
    version = await runtime.prepare(order.spec.engine, order.spec.device, image, status.progress)
    status.engine(version)
    if runtime.kind is RuntimeKind.DOCKER:
        return ()
    return ground.engine_command(order.spec.engine, order.spec.device)
