"""The form of a deployment's scaling, with its schedule. It checks types, `actions` the rest."""

from typing import Any

from django import forms
from django.http import QueryDict

from apps.dashboard.forms import RefusableForm
from apps.deployments.models import ScalingPolicy
from apps.deployments.orders import MAX_REPLICAS, Scaling
from apps.deployments.states import ScalingProfile, ScalingRule
from apps.lib.problems import Problem

EMPTY_WINDOWS = 1
"""Rows of the schedule that stand empty, to be filled in."""

_PROFILES = (
    (ScalingProfile.BALANCED, "Balanced: room for the usual swings"),
    (ScalingProfile.RESPONSIVE, "Responsive: room for bursts"),
    (ScalingProfile.FRUGAL, "Frugal: what the mean needs"),
)
_RULES = (
    (ScalingRule.HEARTH, "Hearth: offered concurrency"),
    (ScalingRule.KNATIVE, "Knative KPA"),
    (ScalingRule.KNATIVE_DELAY, "Knative KPA with the hold time as scale-down delay"),
    (ScalingRule.HPA, "Kubernetes HPA"),
    (ScalingRule.KEDA, "KEDA"),
    (ScalingRule.RAY, "Ray Serve"),
)
_NUMBERS = (
    "min_replicas", "max_replicas", "target_concurrency", "hold_seconds",
    "scale_to_zero_after_seconds", "gpu_budget", "ttft_target_seconds",
)  # fmt: skip


def _whole(low: int, high: int, *, required: bool = True) -> forms.IntegerField:
    widget = forms.NumberInput(attrs={"inputmode": "numeric", "autocomplete": "off"})
    return forms.IntegerField(min_value=low, max_value=high, required=required, widget=widget)


class ScalingForm(RefusableForm):
    """How many replicas, by what."""

    problem_fields = {f"scaling.{name}": name for name in (*_NUMBERS, "profile", "rule")}

    min_replicas = _whole(0, MAX_REPLICAS)
    max_replicas = _whole(0, MAX_REPLICAS)
    target_concurrency = _whole(1, 100_000)
    profile = forms.ChoiceField(choices=_PROFILES)
    rule = forms.ChoiceField(choices=_RULES)
    hold_seconds = _whole(0, 3600)
    scale_to_zero_after_seconds = _whole(10, 604_800)
    gpu_budget = _whole(0, 100_000, required=False)
    ttft_target_seconds = forms.FloatField(min_value=0, max_value=3600, required=False)

    def __init__(self, policy: ScalingPolicy, data: QueryDict | None = None) -> None:
        initial = {name: getattr(policy, name) for name in (*_NUMBERS, "profile", "rule")}
        super().__init__(data, initial=initial)
        self.windows = _windows(policy, data)
        for name in ("gpu_budget", "ttft_target_seconds"):
            self.fields[name].widget.attrs["placeholder"] = "none"

    def is_valid(self) -> bool:
        """Check the fields and every row of the schedule that is filled in."""
        rows = [window.is_valid() for window in self.windows if window.has_changed()]
        return super().is_valid() and all(rows)

    def refuse(self, problem: Problem) -> None:
        """Put an error of the schedule beside its row, any other beside its field."""
        _, is_window, rest = str(problem.extra.get("field", "")).partition("scaling.schedule.")
        number, _, field = rest.partition(".")
        filled = [window for window in self.windows if not window.is_blank]
        if is_window and number.isdecimal() and int(number) < len(filled):
            row = filled[int(number)]
            message = str(problem.extra["errors"][0]["message"])
            name = {"duration_seconds": "hours"}.get(field, field)
            row.add_error(name if name in row.fields else None, message)
            self.add_error(None, "A row of the schedule cannot be so: see below.")
            return
        super().refuse(problem)

    def wish(self) -> Scaling:
        """Return a valid form as an order; an empty limit takes the limit away."""
        given = self.cleaned_data
        return Scaling(
            **{name: given[name] for name in _NUMBERS[:5]},
            profile=given["profile"],
            rule=given["rule"],
            gpu_budget=given["gpu_budget"] or 0,
            ttft_target_seconds=given["ttft_target_seconds"] or 0.0,
            schedule=[window.row() for window in self.windows if not window.is_blank],
        )


class WindowForm(forms.Form):
    """One row of the schedule; all empty is no row."""

    cron = forms.CharField(
        required=False, max_length=120, widget=forms.TextInput(attrs={"placeholder": "0 8 * * 1-5"})
    )
    timezone = forms.CharField(
        required=False, max_length=64, widget=forms.TextInput(attrs={"placeholder": "UTC"})
    )
    hours = forms.FloatField(required=False, min_value=0.02, max_value=168)
    min_replicas = _whole(0, MAX_REPLICAS, required=False)
    max_replicas = _whole(0, MAX_REPLICAS, required=False)

    @property
    def is_blank(self) -> bool:
        given = self.cleaned_data if self.is_bound and self.is_valid() else {}
        return not given.get("cron")

    def row(self) -> dict[str, Any]:
        """Return the row as the policy keeps it."""
        given = self.cleaned_data
        hours = given["hours"]
        return {
            "cron": given["cron"],
            "timezone": given["timezone"] or "UTC",
            "duration_seconds": None if hours is None else round(hours * 3600),
            "min_replicas": given["min_replicas"],
            "max_replicas": given["max_replicas"],
        }


def _windows(policy: ScalingPolicy, data: QueryDict | None) -> list[WindowForm]:
    stored = [
        {**window, "hours": f"{window['duration_seconds'] / 3600:g}"} for window in policy.schedule
    ]
    return [
        WindowForm(data, prefix=f"window-{number}", initial=window)
        for number, window in enumerate([*stored, *({} for _ in range(EMPTY_WINDOWS))])
    ]
