"""Turn an order into a complete engine spec: variant, device, settings, memory. Reads only.

Decides by the catalog's fit over the room on the hosts now. Called by `actions` before it writes,
and by the dry run. Errors are `Problem`s that name the field of the order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings as django_settings

from agents.custom import CustomEngine
from agents.wire import EngineKind, EngineSettings, EngineSpec, SimulatorSettings
from apps.catalog import catalog
from apps.catalog.answer import HostFit
from apps.catalog.entry import Device, Entry, UnknownVariant, Variant
from apps.catalog.fit import DoesNotFit, Fit, GroupFit, Wish, choose_variant, fit, with_remedies
from apps.catalog.need import Need, estimate, split_of
from apps.catalog.rooms import HostRoom
from apps.catalog.settings import BadSetting, engine_settings
from apps.catalog.weights import weights_refs
from apps.deployments import devices, learning, specs
from apps.deployments.models import Deployment, Revision
from apps.deployments.orders import DRAIN_SECONDS, Change, NewDeployment, PlacementWish, Resources
from apps.deployments.refusals import check_memory, does_not_fit
from apps.deployments.room import fit_rooms
from apps.lib.problems import of_field

SIMULATOR_BYTES = 64 * 1024**2
"""Memory reserved for a simulated replica."""

MEMORY_LIMIT_RATIO = 1.3
"""Memory limit of a CPU replica over its estimate: an estimate must not kill an engine."""

_SHM_BYTES_PER_GPU = 4 * 1024**3
_SHM_BYTES_CPU = 512 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a revision needs."""

    variant: str
    spec: EngineSpec
    need: dict[str, int]
    reason: str
    """Why this variant and device, one sentence."""
    inputs: dict[str, Any]
    """What the choice was made from."""
    placement: dict[str, Any]
    resources: dict[str, Any]
    fit: dict[str, Any] = field(default_factory=dict)
    """What placement and the comparison with the engine's own report go by: `gpu_memory_ratio`,
    `shared`, `min_compute_capability`, `weights_key`, `kv_tokens`, `full_length_requests`."""


def drain_seconds() -> float:
    """Return how long a leaving replica may finish its requests."""
    return DRAIN_SECONDS


def cook(order: NewDeployment, *, instead_of: UUID | None = None) -> Recipe:
    """Return the recipe for `order`. Raises Problem 400 or 422 naming the field and the fix.

    The room of the deployment `instead_of` counts as free: the order is a change of it.
    """
    entry = find_entry(order.catalog)
    wanted, overrides = _split_engine(order.engine)
    if wanted is EngineKind.SIMULATOR:
        rooms = fit_rooms(without=instead_of) if order.placement.device == Device.CUDA else []
        return _simulated(entry, order, overrides, rooms)
    if entry.custom is not None:
        return _declared(entry, entry.custom, order, overrides)
    return _served(entry, order, overrides, fit_rooms(without=instead_of))


def recook(deployment: Deployment, latest: Revision, patch: Change) -> Recipe:
    """Return the recipe of a change: the newest revision's order with `patch` over it."""
    recipe = cook(
        NewDeployment(
            catalog=deployment.catalog_slug,
            name=deployment.name,
            variant=patch.variant or latest.variant,
            engine=latest.settings if patch.engine is None else patch.engine,
            resources=patch.resources or Resources(**deployment.resources),
            placement=_placement_of(deployment, latest, patch),
        ),
        instead_of=deployment.pk,
    )
    return _named(recipe, deployment.name)


def _placement_of(deployment: Deployment, latest: Revision, patch: Change) -> PlacementWish:
    """Its own replicas hold the room it needs, so a change may always wait for room."""
    wish = patch.placement or PlacementWish(**deployment.placement)
    return replace(wish, device=wish.device or latest.device, wait=True)


def _named(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, spec=specs.named(recipe.spec, name))


def fits(order: NewDeployment) -> Fit:
    """Return the answer of every host to `order`, and of several together, for the dry run."""
    entry = find_entry(order.catalog)
    kind, overrides = _split_engine(order.engine)
    if kind is EngineKind.SIMULATOR:
        overrides.pop("simulator", None)
    wish = _wish(order, overrides)
    variants = entry.ranked_variants if order.variant is None else (_variant(entry, order.variant),)
    rooms = fit_rooms()
    found = fit(entry, variants, rooms, wish)
    return replace(found, hosts=with_remedies(entry, found.hosts, rooms, wish))


def find_entry(slug: str) -> Entry:
    """Return the catalog entry. Raises Problem 400 `unknown_catalog_entry` with near names."""
    try:
        return catalog.get(slug)
    except catalog.UnknownEntry as error:
        raise of_field(400, "unknown_catalog_entry", "catalog", str(error)) from error


def _variant(entry: Entry, name: str) -> Variant:
    try:
        return entry.variant(name)
    except UnknownVariant as error:
        raise of_field(400, "unknown_variant", "variant", str(error)) from error


def _split_engine(engine: Mapping[str, Any]) -> tuple[EngineKind, dict[str, Any]]:
    """Return which engine is wanted, and the settings for it."""
    overrides = dict(engine)
    default = django_settings.ENGINE or EngineKind.VLLM
    kind = overrides.pop("kind", default)
    try:
        return EngineKind(kind), overrides
    except ValueError as error:
        known = " or ".join(EngineKind)
        raise of_field(400, "invalid", "engine.kind", f"{kind!r} is not {known}") from error


def _served(
    entry: Entry, order: NewDeployment, overrides: dict[str, Any], rooms: Sequence[HostRoom]
) -> Recipe:
    if "simulator" in overrides:
        raise of_field(400, "invalid", "engine.simulator", "is for `engine.kind` `simulator` alone")
    if order.variant is not None:
        _variant(entry, order.variant)
    wish = _wish(order, overrides)
    if not order.placement.wait:
        devices.check_somewhere(order.placement, rooms)
    try:
        choice = choose_variant(entry, rooms, wish)
    except BadSetting as error:
        raise of_field(400, "invalid", f"engine.{error.field}", str(error)) from error
    except DoesNotFit as error:
        return _instead(entry, order, overrides, error)
    if choice.device is Device.CPU and not order.placement.wait:
        check_memory(order, rooms)
    return _recipe(entry, order, _picked(choice.variant, choice.best, choice.best.host))


def _instead(
    entry: Entry, order: NewDeployment, overrides: dict[str, Any], error: DoesNotFit
) -> Recipe:
    """Return what is done with an order that fits no host alone. Raises Problem 422."""
    if error.group is not None:
        return _together(entry, order, error.group)
    if order.placement.wait:
        return _hoped_for(entry, order, overrides, str(error))
    raise does_not_fit(error) from error


def _together(entry: Entry, order: NewDeployment, group: GroupFit) -> Recipe:
    """Return the recipe of a model that outgrows each host and fits several together."""
    picked = _picked(entry.variant(group.fit.variant), group.fit, str(group))
    return _recipe(entry, order, replace(picked, hosts=len(group.hosts)))


def _hoped_for(entry: Entry, order: NewDeployment, overrides: dict[str, Any], why: str) -> Recipe:
    """Return the recipe of an order that waits for room: the preferred variant as it stands."""
    variant = _variant(entry, order.variant) if order.variant else entry.ranked_variants[0]
    device = Device(order.placement.device or next(iter(variant.devices)))
    try:
        engine = engine_settings(variant, device, overrides)
    except BadSetting as error:
        raise of_field(400, "invalid", f"engine.{error.field}", str(error)) from error
    need = estimate(variant, engine, device)
    picked = _Picked(
        variant=variant,
        device=device,
        engine=engine,
        reserve_bytes=need.total_bytes,
        need=need,
        reason=f"waits for room: {why}",
    )
    return _recipe(entry, order, picked)


@dataclass(frozen=True, kw_only=True)
class _Picked:
    """A variant on a device with complete settings, and the memory to book for it."""

    variant: Variant
    device: Device
    engine: EngineSettings
    reserve_bytes: int
    need: Need | None
    reason: str
    kv_tokens: int = 0
    full_length_requests: int = 0
    hosts: int = 1

    @property
    def gpus(self) -> int:
        """Return how many GPUs a replica takes, on all its hosts together."""
        if self.device is Device.CPU:
            return 0
        return split_of(self.engine).gpus


def _picked(variant: Variant, fit: HostFit, where: str) -> _Picked:
    return _Picked(
        variant=variant,
        device=fit.device,
        engine=fit.settings or EngineSettings(),
        reserve_bytes=fit.reserve_bytes,
        need=fit.need,
        reason=f"{where}: {fit.reason}",
        kv_tokens=fit.kv_tokens,
        full_length_requests=fit.full_length_requests,
    )


def _recipe(entry: Entry, order: NewDeployment, picked: _Picked) -> Recipe:
    on_cpu = picked.device is Device.CPU
    reserved = order.resources.memory_bytes or picked.reserve_bytes
    first, *others = weights_refs(picked.variant)
    spec = EngineSpec(
        engine=EngineKind.VLLM,
        device=picked.device,
        task=entry.task,
        weights=msgspec.structs.replace(first, alternatives=tuple(others)),
        served_names=(),
        settings=picked.engine,
        memory_bytes=_limit(reserved, order) if on_cpu else None,
        shm_bytes=_SHM_BYTES_CPU if on_cpu else _SHM_BYTES_PER_GPU * picked.gpus // picked.hosts,
        max_in_flight=max(64, 4 * (picked.engine.max_num_seqs or 0)),
    )
    spec = specs.extended(spec, entry)
    parts = {} if picked.need is None else {k: int(v) for k, v in asdict(picked.need).items()}
    name = picked.variant.name
    spread = {"hosts": picked.hosts} if picked.hosts > 1 else {}
    return Recipe(
        variant=name,
        spec=spec,
        need={**parts, "total_bytes": reserved, "gpus": picked.gpus, **spread},
        reason=picked.reason,
        inputs={"variant": name, "device": str(picked.device), "need": parts},
        placement=placement_json(order.placement),
        resources=asdict(order.resources),
        fit={
            "gpu_memory_ratio": picked.engine.gpu_memory_utilization if picked.gpus else 0,
            "shared": order.resources.gpu_ratio is not None,
            "min_compute_capability": _oldest(picked),
            "weights_key": spec.weights.key,
            "kv_tokens": picked.kv_tokens,
            "full_length_requests": picked.full_length_requests,
        },
    )


def _oldest(picked: _Picked) -> str:
    """Return the oldest compute capability that will do, empty on CPU."""
    rules = picked.variant.devices[picked.device]
    return rules.min_compute_capability or "" if picked.gpus else ""


def _limit(reserved: int, order: NewDeployment) -> int:
    return order.resources.memory_bytes or int(reserved * MEMORY_LIMIT_RATIO)


def _simulated(
    entry: Entry, order: NewDeployment, overrides: dict[str, Any], rooms: Sequence[HostRoom]
) -> Recipe:
    """Return a recipe for the simulator engine: any model, no weights, on any host.

    Ordered on `cuda` it takes the GPUs that the real engine would.
    """
    timing = _timing(overrides)
    if order.placement.device == Device.CUDA:
        real = _served(entry, order, overrides, rooms)
        spec = msgspec.structs.replace(real.spec, engine=EngineKind.SIMULATOR, simulator=timing)
        return replace(real, spec=spec, reason=f"{real.reason}; simulated: no model is loaded")
    variant = _variant(entry, order.variant) if order.variant else entry.ranked_variants[0]
    device = next(iter(variant.devices))
    try:
        engine = engine_settings(variant, device, overrides)
    except BadSetting as error:
        raise of_field(400, "invalid", f"engine.{error.field}", str(error)) from error
    spec = EngineSpec(
        engine=EngineKind.SIMULATOR,
        device=Device.CPU,
        task=entry.task,
        weights=weights_refs(variant)[0],
        served_names=(),
        settings=engine,
        simulator=timing,
        max_in_flight=max(64, 4 * timing.max_num_seqs),
    )
    spec = specs.extended(spec, entry)
    return Recipe(
        variant=variant.name,
        spec=spec,
        need={"total_bytes": order.resources.memory_bytes or SIMULATOR_BYTES, "gpus": 0},
        reason=f"{variant.name} is simulated: no model is loaded",
        inputs={"variant": variant.name, "engine": EngineKind.SIMULATOR.value},
        placement=placement_json(order.placement),
        resources=asdict(order.resources),
        fit={"weights_key": spec.weights.key},
    )


def _timing(overrides: dict[str, Any]) -> SimulatorSettings:
    """Take the simulator's own settings out of `overrides`."""
    try:
        return msgspec.convert(overrides.pop("simulator", {}), SimulatorSettings)
    except msgspec.ValidationError as error:
        raise of_field(400, "invalid", "engine.simulator", str(error)) from error


def _declared(
    entry: Entry, engine: CustomEngine, order: NewDeployment, overrides: dict[str, Any]
) -> Recipe:
    """Return a recipe for an engine that the entry declares itself, with its memory."""
    for name in overrides:
        message = f"is a setting of vLLM, and {entry.slug} has an engine of its own: leave it out"
        raise of_field(400, "invalid", f"engine.{name}", message)
    variant = _variant(entry, order.variant) if order.variant else entry.ranked_variants[0]
    needed = order.resources.memory_bytes or engine.memory_bytes
    spec = specs.declared(entry, engine, variant, memory_bytes=needed)
    return Recipe(
        variant=variant.name,
        spec=spec,
        need={"total_bytes": needed, "gpus": engine.gpus},
        reason=f"{entry.name} has an engine of its own, with {needed} bytes as its entry says",
        inputs={"variant": variant.name, "engine": EngineKind.CUSTOM.value},
        placement=placement_json(order.placement),
        resources=asdict(order.resources),
        fit={"weights_key": spec.weights.key},
    )


def placement_json(wish: PlacementWish) -> dict[str, Any]:
    """Return the wish as the deployment's row keeps it."""
    return {
        "host": wish.host,
        "labels": dict(wish.labels),
        "device": wish.device,
        "gpu_kind": wish.gpu_kind,
        "tolerations": [dict(toleration) for toleration in wish.tolerations],
        "strategy": wish.strategy,
    }


def _wish(order: NewDeployment, overrides: Mapping[str, Any]) -> Wish:
    device = order.placement.device
    if device and device not in set(Device):
        raise of_field(400, "invalid", "placement.device", f"{device!r} is not cpu or cuda")
    return Wish(
        variant=order.variant,
        device=Device(device) if device else None,
        host=order.placement.host or None,
        labels=order.placement.labels,
        engine=overrides,
        learned=learning.starts_of(order.catalog),
        gpu_kind=order.placement.gpu_kind,
        gpu_ratio=order.resources.gpu_ratio,
        full_length_requests=order.resources.full_length_requests,
    )
