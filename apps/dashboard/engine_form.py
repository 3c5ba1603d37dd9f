"""The form of all engine settings, drawn from their declaration.

A field left empty is the default that stands beside it. Options that cannot be taken here are
shown, disabled, with the reason. What an order may say is checked by the actions.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django import forms
from django.http import QueryDict

from agents.setting import Group
from apps.catalog.entry import Variant
from apps.catalog.sheet import GroupRows, SettingRow, sheet
from apps.dashboard.forms import RefusableForm
from apps.fleet.models import Host

ON, OFF = "on", "off"
_LONG = (dict, tuple)


class _Choice(forms.Select):
    """A select whose options may be disabled."""

    reasons: Mapping[str, str] = {}

    def create_option(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - Django's own signature
        option = super().create_option(*args, **kwargs)
        if self.reasons.get(str(option["value"])):
            option["attrs"]["disabled"] = True
        return option


@dataclass(frozen=True)
class FieldRow:
    """One setting of the form as the template shows it."""

    row: SettingRow
    field: forms.BoundField

    @property
    def reasons(self) -> list[str]:
        """Why options cannot be taken here, each reason once with its options."""
        found: dict[str, list[str]] = {}
        for option in self.row.options:
            if option.reason:
                found.setdefault(option.reason, []).append(option.value)
        return [f"{', '.join(values)}: {reason}" for reason, values in found.items()]


class EngineForm(RefusableForm):
    """The settings of `groups`, filled with `given`; without `is_admin` those for admins rest."""

    generation = forms.IntegerField(required=False, widget=forms.HiddenInput())

    def __init__(
        self,
        groups: Sequence[GroupRows],
        given: Mapping[str, Any],
        data: QueryDict | None = None,
        *,
        is_admin: bool = False,
        generation: int | None = None,
    ) -> None:
        initial = {name: _text(value) for name, value in given.items()}
        super().__init__(data, initial=initial | {"generation": generation})
        self._groups = groups
        self._given = given
        self.problem_fields = {}
        for group in groups:
            for row in group.rows:
                self.fields[row.name] = _field(row)
                self.fields[row.name].disabled = bool(row.reason) or (
                    row.setting.admin_only and not is_admin
                )
                self.problem_fields[f"engine.{row.name}"] = row.name

    @property
    def groups(self) -> list[tuple[Group, list[FieldRow]]]:
        """The fields under their headings."""
        return [
            (group.group, [FieldRow(row, self[row.name]) for row in group.rows])
            for group in self._groups
        ]

    def engine(self) -> dict[str, Any]:
        """Return what was filled into a valid form, and what was given beside the settings."""
        rows = {row.name: row for group in self._groups for row in group.rows}
        kept = {name: value for name, value in self._given.items() if name not in rows}
        for name, row in rows.items():
            if self.fields[name].disabled:
                value = self._given.get(name)
            else:
                value = _value(row, self.cleaned_data.get(name))
            if value not in (None, "", [], {}):
                kept[name] = value
        return kept


def _field(row: SettingRow) -> forms.Field:
    setting = row.setting
    default = f"{row.default}"
    if setting.kind is bool:
        choices = [("", f"Default: {default}"), (ON, "On"), (OFF, "Off")]
        return forms.ChoiceField(required=False, choices=choices)
    if setting.choices:
        widget = _Choice()
        widget.reasons = {option.value: option.reason for option in row.options}
        names = [(option.value, option.value) for option in row.options]
        return forms.ChoiceField(
            required=False, choices=[("", f"Default: {default}"), *names], widget=widget
        )
    attrs = {"autocomplete": "off", "spellcheck": "false", "placeholder": default}
    if setting.kind in _LONG:
        return forms.CharField(required=False, widget=forms.Textarea(attrs=attrs | {"rows": 2}))
    if setting.kind is int:
        return forms.IntegerField(
            required=False, widget=forms.TextInput(attrs=attrs | {"inputmode": "numeric"})
        )
    if setting.kind is float:
        return forms.FloatField(
            required=False, widget=forms.TextInput(attrs=attrs | {"inputmode": "decimal"})
        )
    return forms.CharField(required=False, widget=forms.TextInput(attrs=attrs))


def _value(row: SettingRow, given: Any) -> Any:  # noqa: ANN401 - a setting's value
    """Return what the form's text means; what it cannot mean goes on as it is, to be refused."""
    if given in (None, ""):
        return None
    kind = row.setting.kind
    if kind is bool:
        return given == ON
    if kind is dict:
        pairs = [line.partition("=") for line in str(given).splitlines() if line.strip()]
        return {name.strip(): source.strip() for name, _, source in pairs}
    if kind is tuple:
        words = str(given).split()
        if row.setting.low is None:
            return words
        return [int(word) if word.lstrip("-").isdigit() else word for word in words]
    return given


def _text(value: Any) -> Any:  # noqa: ANN401 - a setting's value
    if isinstance(value, bool):
        return ON if value else OFF
    if isinstance(value, dict):
        return "\n".join(f"{name} = {source}" for name, source in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value


def newest_gpu() -> str:
    """Return the newest compute capability in the fleet, empty without GPUs."""
    found = [
        gpu.get("compute_capability", "")
        for inventory in Host.objects.values_list("inventory", flat=True)
        for gpu in inventory.get("gpus", ())
    ]
    known = [tuple(map(int, word.split("."))) for word in found if word]
    return ".".join(map(str, max(known))) if known else ""


def beside(
    variant: Variant, device: str, shown: Collection[str], data: QueryDict | None, *, is_admin: bool
) -> EngineForm:
    """Return the form of all settings that a page does not show already, as `shown`."""
    groups = [
        replace(group, rows=tuple(row for row in group.rows if row.name not in shown))
        for group in sheet(device, variant=variant, capability=newest_gpu())
    ]
    return EngineForm([group for group in groups if group.rows], {}, data, is_admin=is_admin)
