"""Bring what an order needs to this host and describe the launch: engine, then weights.

Everything here may be cut short and asked again: what was fetched stays fetched. Nothing is
started. Called by `agents.carry`.
"""

from agents import standing
from agents.engines.base import Place
from agents.ground import Ground
from agents.runtimes.base import Launch
from agents.stages import StageClock
from agents.status import Status
from agents.wire import EngineKind, ObservedPhase, ReplicaOrder, RuntimeKind


async def bring(order: ReplicaOrder, ground: Ground, status: Status) -> Launch:
    """Return how to start `order` here once its engine and weights are on the disk.

    Raises standing.Refused if this host does not allow it or the settings cannot be, RuntimeFault
    if something cannot be brought.
    """
    runtime = ground.sight.starter_of(order.spec.engine)
    engine = ground.engine(order.spec.engine)
    image = order.spec.image or ground.policy.engine_images.get(order.spec.device, "")
    image = image or engine.default_image(order.spec.device)
    standing.check(order, image, runtime.kind, ground.policy)
    status.enter(ObservedPhase.FETCHING, ground.now())
    clock = StageClock()
    clock.begin("image" if runtime.kind is RuntimeKind.DOCKER else "engine", ground.monotonic())
    status.stage(clock.stage)
    version = await runtime.prepare(order.spec.engine, order.spec.device, image, status.progress)
    status.engine(version)
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
        engine_command=_command(order, ground, runtime.kind),
        image=image,
    )
    try:
        return engine.launch(order, place)
    except ValueError as error:
        raise standing.Refused(f"the settings of {order.deployment!r}: {error}") from error


def _command(order: ReplicaOrder, ground: Ground, runtime: RuntimeKind) -> tuple[str, ...]:
    """Return how the engine is started; an image knows that by itself."""
    if runtime is RuntimeKind.DOCKER:
        return ()
    return ground.engine_command(order.spec.engine, order.spec.device)
