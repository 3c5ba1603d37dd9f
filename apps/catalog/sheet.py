"""The settings as a form or an API shows them: groups, defaults, what can be chosen and why not.

Pure: the declaration and a place (variant, device, GPU generation) in, rows out. Called by the API,
the deployment's Settings tab, the deploy form and the docs page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.setting import Group, Setting
from apps.catalog.entry import Device, Variant
from apps.catalog.settings import SETTINGS, accepted, engine_settings, splits_evenly, unavailable


@dataclass(frozen=True, kw_only=True)
class Option:
    """One choice of a setting; `reason` says why it cannot be taken, empty if it can."""

    value: str
    reason: str

    @property
    def available(self) -> bool:
        return not self.reason


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """One setting on one device."""

    setting: Setting
    device: str
    catalog_value: Any
    """What the catalog sets for this variant and device; None for the engine's default."""
    options: tuple[Option, ...]
    reason: str
    """Why it cannot be set here, empty if it can."""
    accepted: str

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def default(self) -> str:
        """What is taken when it is left out, in words."""
        if self.catalog_value not in (None, (), {}):
            return _words(self.catalog_value)
        return self.setting.default or "the engine's"


@dataclass(frozen=True, kw_only=True)
class GroupRows:
    group: Group
    rows: tuple[SettingRow, ...]


def sheet(
    device: Device | str, *, variant: Variant | None = None, capability: str = ""
) -> tuple[GroupRows, ...]:
    """Return every setting as it stands on `device`, in the declaration's order.

    With a `variant` its catalog values are the defaults and the model's own limits are told; with a
    `capability` the methods that this GPU generation cannot run carry their reason.
    """
    chosen: Mapping[str, Any] = {}
    if variant is not None and device in variant.devices:
        settings = engine_settings(variant, device, {})
        chosen = {name: getattr(settings, name) for name in SETTINGS}
    rows = [
        _row(setting, device, chosen.get(name, setting.initial), variant, capability)
        for name, setting in SETTINGS.items()
    ]
    return tuple(
        GroupRows(group=group, rows=tuple(row for row in rows if row.setting.group is group))
        for group in Group
        if any(row.setting.group is group for row in rows)
    )


def _row(
    setting: Setting, device: Device | str, value: Any, variant: Variant | None, capability: str  # noqa: ANN401
) -> SettingRow:  # fmt: skip
    return SettingRow(
        setting=setting,
        device=device,
        catalog_value=value,
        options=tuple(
            Option(value=choice, reason=unavailable(setting, choice, device, capability))
            for choice in setting.choices
        ),
        reason=setting.refused_on.get(device, ""),
        accepted=_accepted(setting, device, variant),
    )


def _accepted(setting: Setting, device: Device | str, variant: Variant | None) -> str:
    """Say what is taken, with the model's own limits."""
    if variant is None:
        return accepted(setting, device)
    if setting.name == "max_model_len":
        return f"a whole number from 1 to {variant.context_tokens}"
    if setting.name == "tensor_parallel_size":
        most = min(variant.shape.attention_heads, 64)
        fitting = [str(n) for n in range(1, most + 1) if splits_evenly(variant.shape, n)]
        return f"one of {', '.join(fitting)}"
    if setting.name == "pipeline_parallel_size":
        return f"a whole number from 1 to {min(variant.shape.layers, 64)}"
    return accepted(setting, device)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(value)
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
