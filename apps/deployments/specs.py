"""Engine settings that decide more of a spec than a flag: weights, adapters, draft model, task.

Pure: a recipe's parts in, a spec out. Called by `recipes`.
"""

import msgspec

from agents.custom import CustomEngine
from agents.wire import Adapter, EngineKind, EngineSettings, EngineSpec, Task
from apps.catalog.entry import Device, Entry, Variant
from apps.catalog.settings import SETTINGS
from apps.catalog.weights import at_revision, ref_of, weights_refs
from apps.lib.problems import of_field


def extended(spec: EngineSpec, entry: Entry) -> EngineSpec:
    """Return `spec` with what its settings say of weights and task, and the entry's parsers."""
    settings = with_parsers(spec.settings, entry)
    weights = spec.weights
    if settings.revision is not None:
        weights = at_revision(weights, settings.revision)
    model = settings.speculative_model
    return msgspec.structs.replace(
        spec,
        task=Task(settings.task) if settings.task else entry.task,
        weights=weights,
        settings=settings,
        adapters=tuple(
            Adapter(name=name, weights=ref_of(source))
            for name, source in sorted(settings.lora_adapters.items())
        ),
        draft=None if model is None else ref_of(model),
    )


def declared(
    entry: Entry, engine: CustomEngine, variant: Variant, *, memory_bytes: int
) -> EngineSpec:
    """Return the spec of an entry whose engine is its own."""
    device = next(iter(variant.devices))
    first, *others = weights_refs(variant)
    return EngineSpec(
        engine=EngineKind.CUSTOM,
        device=device,
        task=entry.task,
        weights=msgspec.structs.replace(first, alternatives=tuple(others)),
        served_names=(),
        custom=engine,
        image=engine.image,
        memory_bytes=int(memory_bytes * 1.3) if device is Device.CPU else None,
        max_in_flight=engine.max_in_flight,
    )


def with_parsers(engine: EngineSettings, entry: Entry) -> EngineSettings:
    """Return `engine` with the entry's parsers where it names none."""
    return msgspec.structs.replace(
        engine,
        tool_call_parser=engine.tool_call_parser or entry.tool_call_parser,
        reasoning_parser=engine.reasoning_parser or entry.reasoning_parser,
    )


def named(spec: EngineSpec, name: str) -> EngineSpec:
    """Return `spec` served as `name`, each adapter as `<name>:<adapter>`."""
    adapters = tuple(
        Adapter(name=f"{name}:{adapter.name.rpartition(':')[2]}", weights=adapter.weights)
        for adapter in spec.adapters
    )
    return msgspec.structs.replace(spec, served_names=(name,), adapters=adapters)


def check_admin_only(
    engine: dict[str, object], before: dict[str, object], *, by_admin: bool
) -> dict[str, object]:
    """Return the admins' settings that are new or changed against `before`.

    Raises Problem 403 `admins_only` naming the field if somebody else gives one.
    """
    fresh = {
        name: engine[name]
        for name, setting in SETTINGS.items()
        if setting.admin_only and engine.get(name) and engine[name] != before.get(name)
    }
    if fresh and not by_admin:
        field = f"engine.{next(iter(fresh))}"
        why = "only admins may give free-form arguments; ask one, or leave it out."
        raise of_field(403, "admins_only", field, "is for admins", detail=f"{field}: {why}")
    return fresh
