"""What differs between two settings of a deployment, field by field. Pure.

The same words for a dry run, a revision against the one before it, an edit and `apply`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agents.wire import EngineSpec

_COMPARED = ("engine", "device", "task", "memory_bytes", "image", "max_in_flight")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value that changes. `field` as `settings.max_model_len`; None: not set."""

    field: str
    old: Any
    new: Any


def flat_spec(variant: str, stored: Mapping[str, Any] | EngineSpec) -> dict[str, Any]:
    """Return the comparable parts of a revision, as `{"settings.max_model_len": 4096}`.

    `stored` is an `EngineSpec` or its JSON, which may leave defaults out.
    """
    spec = stored if isinstance(stored, EngineSpec) else msgspec.convert(stored, EngineSpec)
    found = {
        "variant": variant,
        **{name: msgspec.to_builtins(getattr(spec, name)) for name in _COMPARED},
    }
    found["weights"] = spec.weights.source
    for group in ("settings", "simulator"):
        found |= flat(_not_default(getattr(spec, group)), f"{group}.")
    return found


def _not_default(group: msgspec.Struct | None) -> dict[str, Any]:
    """Return the fields of `group` that were set to something else than their default.

    msgspec's own `omit_defaults` compares by identity: a default that was read from JSON stays.
    """
    if group is None:
        return {}
    fields = msgspec.structs.fields(group)
    pairs = ((field, getattr(group, field.name)) for field in fields)
    return {
        field.name: msgspec.to_builtins(value) for field, value in pairs if value != field.default
    }


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested members under dotted names; lists stay whole."""
    found: dict[str, Any] = {}
    for name, member in value.items():
        if isinstance(member, Mapping):
            found |= flat(member, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = member
    return found


def between(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return what differs between two flat mappings, by name."""
    return tuple(
        Difference(field=name, old=old.get(name), new=new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def words(differences: tuple[Difference, ...], most: int = 4) -> str:
    """Return `settings.max_model_len 2048 -> 4096, …` for an event."""
    said = [f"{d.field} {_plain(d.old)} -> {_plain(d.new)}" for d in differences[:most]]
    more = f" and {len(differences) - most} more" if len(differences) > most else ""
    return ", ".join(said) + more


def _plain(value: object) -> str:
    return "unset" if value is None or value == "" else str(value)
