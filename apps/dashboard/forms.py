"""Forms of the pages. They check types; what an order may say is checked by the actions."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, QueryDict

from apps.accounts.models import User
from apps.catalog.entry import Entry
from apps.catalog.fit import Wish
from apps.deployments.orders import MAX_REPLICAS, NewDeployment, PlacementWish, Scaling
from apps.deployments.rollout_policy import RolloutPolicy, to_json
from apps.fleet.models import Host
from apps.fleet.states import LABEL_PART
from apps.lib.problems import Problem

_NUMBER = {"inputmode": "numeric", "autocomplete": "off"}


ENGINE_FIELDS = ("max_model_len", "max_num_seqs")
"""Engine settings that the deploy form shows at once; the others are its advanced part."""


class RefusableForm(forms.Form):
    """A form that can show a domain error beside its field."""

    problem_fields: dict[str, str] = {}
    """Field of a `Problem` -> field of this form, where they differ."""

    def refuse(self, problem: Problem) -> None:
        """Put each error of `problem` beside its field, or above the form."""
        errors = problem.extra.get("errors") or [
            {"field": problem.extra.get("field", ""), "message": problem.detail}
        ]
        for error in errors:
            name = self.problem_fields.get(error["field"], error["field"])
            self.add_error(name if name in self.fields else None, error["message"])


class DeployForm(RefusableForm):
    """What may be chosen when a catalog entry is deployed; all of it optional."""

    problem_fields = {
        "scaling.min_replicas": "replicas",
        "scaling.max_replicas": "replicas",
        "engine.max_model_len": "max_model_len",
        "engine.max_num_seqs": "max_num_seqs",
        "placement.host": "host",
    }

    name = forms.CharField(
        required=False,
        max_length=63,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    variant = forms.ChoiceField(required=False)
    host = forms.ChoiceField(required=False)
    replicas = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=MAX_REPLICAS,
        widget=forms.NumberInput(attrs=_NUMBER),
    )
    max_model_len = forms.IntegerField(
        required=False, min_value=1, widget=forms.NumberInput(attrs=_NUMBER)
    )
    max_num_seqs = forms.IntegerField(
        required=False, min_value=1, max_value=4096, widget=forms.NumberInput(attrs=_NUMBER)
    )

    def __init__(self, entry: Entry, data: QueryDict | None = None) -> None:
        super().__init__(data)
        self.entry = entry
        self.advanced: dict[str, Any] = {}
        """Engine settings from the advanced part, which is a form of its own."""
        names = [(name, name) for name in entry.recommended]
        self.fields["variant"].choices = [("", "Best that fits"), *names]  # type: ignore[attr-defined]
        hosts = Host.objects.order_by("name").values_list("name", flat=True)
        self.fields["host"].choices = [("", "Any host"), *((h, h) for h in hosts)]  # type: ignore[attr-defined]
        self.fields["name"].widget.attrs["placeholder"] = entry.slug.replace(".", "-")
        preset = entry.ranked_variants[0]
        self.fields["max_model_len"].widget.attrs["placeholder"] = preset.engine.max_model_len
        self.fields["max_num_seqs"].widget.attrs["placeholder"] = (
            preset.engine.max_num_seqs or "engine's default"
        )
        self.fields["replicas"].widget.attrs["placeholder"] = 1

    def engine(self) -> dict[str, Any]:
        """Return the engine settings that were filled in, the advanced ones too."""
        given = self._given()
        return {**self.advanced, **{key: given[key] for key in ENGINE_FIELDS if given.get(key)}}

    def wish(self) -> Wish:
        """Return what the fit is asked for; wrong fields count as empty."""
        given = self._given()
        return Wish(
            variant=given.get("variant") or None,
            host=given.get("host") or None,
            engine=self.engine(),
        )

    def order(self, *, by_admin: bool = False) -> NewDeployment:
        """Return the order of a valid form."""
        given = self.cleaned_data
        return NewDeployment(
            catalog=self.entry.slug,
            name=given["name"].strip() or None,
            variant=given["variant"] or None,
            engine=self.engine(),
            scaling=Scaling(min_replicas=given["replicas"]),
            placement=PlacementWish(host=given["host"]),
            by_admin=by_admin,
        )

    def _given(self) -> dict[str, Any]:
        if not self.is_bound:
            return {}
        self.is_valid()
        return self.cleaned_data


class ScaleForm(forms.Form):
    """How many replicas are wanted."""

    replicas = forms.IntegerField(min_value=0, max_value=MAX_REPLICAS)


class PriceForm(forms.Form):
    """Price of an hour; empty goes back to the default."""

    price = forms.DecimalField(required=False, min_value=0, max_digits=12, decimal_places=6)


_TAINT_PART = "Use 1 to 63 letters, digits and . _ / - between them."


class TaintForm(forms.Form):
    """A mark that keeps orders away from a host, or makes it their last choice."""

    key = forms.RegexField(LABEL_PART, error_messages={"invalid": _TAINT_PART})
    value = forms.RegexField(LABEL_PART, required=False, error_messages={"invalid": _TAINT_PART})
    effect = forms.ChoiceField(
        required=False, choices=[("refuse", "Keeps orders away"), ("avoid", "Is the last choice")]
    )

    @property
    def taint(self) -> dict[str, str]:
        """Return what was given, as a host keeps it."""
        given = self.cleaned_data
        value = {"value": given["value"]} if given["value"] else {}
        return {"key": given["key"], **value, "effect": given["effect"] or "refuse"}


def _budget() -> forms.DecimalField:
    return forms.DecimalField(
        required=False, min_value=Decimal("0.0001"), max_digits=12, decimal_places=4
    )


_LIMITS = ("rpm", "tpm", "max_in_flight", "budget_usd_per_day", "budget_usd_per_month")


class KeyForm(RefusableForm):
    """A new API key and what it may do; empty limits are none."""

    problem_fields = {"models": "allowed_models", "expires_at": "days"}

    name = forms.CharField(max_length=80, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    allowed_models = forms.MultipleChoiceField(required=False)
    rpm = forms.IntegerField(required=False, min_value=1, max_value=10_000_000)
    tpm = forms.IntegerField(required=False, min_value=1, max_value=1_000_000_000)
    max_in_flight = forms.IntegerField(required=False, min_value=1, max_value=100_000)
    budget_usd_per_day = _budget()
    budget_usd_per_month = _budget()
    days = forms.IntegerField(required=False, min_value=1, max_value=3650)

    def __init__(self, models: list[str], data: QueryDict | None = None) -> None:
        super().__init__(data)
        self.fields["allowed_models"].choices = [(name, name) for name in models]  # type: ignore[attr-defined]
        for name in _LIMITS:
            self.fields[name].widget.attrs["placeholder"] = "no limit"
        self.fields["days"].widget.attrs["placeholder"] = "never"


def messages_of(request: HttpRequest, form: forms.Form) -> None:
    """Leave every error of a small form as a message; it has no page of its own."""
    for name, errors in form.errors.items():
        for error in errors:
            messages.error(request, f"{name}: {error}")


class PasswordForm(forms.Form):
    """One's own password: the old one, and the new one twice."""

    old = forms.CharField(strip=False)
    new = forms.CharField(strip=False)
    again = forms.CharField(strip=False)

    def __init__(self, user: User, data: QueryDict) -> None:
        super().__init__(data)
        self.user = user

    def clean_old(self) -> str:
        """Check the old password."""
        old: str = self.cleaned_data["old"]
        if not self.user.check_password(old):
            raise forms.ValidationError("This is not your password.")
        return old

    def clean_again(self) -> str:
        """Check that the new password was typed the same twice."""
        again: str = self.cleaned_data["again"]
        if again != self.cleaned_data.get("new"):
            raise forms.ValidationError("The two new passwords differ.")
        return again


class RolloutForm(RefusableForm):
    """The parts of a rollout policy that a person sets by hand; the rest is in the YAML."""

    strategy = forms.ChoiceField(
        choices=[
            ("rolling", "Rolling"),
            ("canary", "Canary"),
            ("blue_green", "Blue/green"),
            ("recreate", "Recreate"),
        ]
    )
    max_surge = forms.IntegerField(min_value=0, widget=forms.NumberInput(attrs=_NUMBER))
    max_unavailable = forms.IntegerField(min_value=0, widget=forms.NumberInput(attrs=_NUMBER))
    ready_seconds = forms.IntegerField(min_value=10, widget=forms.NumberInput(attrs=_NUMBER))
    shadow_ratio = forms.FloatField(min_value=0, max_value=1)
    weight_ratio = forms.FloatField(min_value=0, max_value=1)
    min_requests = forms.IntegerField(min_value=20, widget=forms.NumberInput(attrs=_NUMBER))
    auto_rollback = forms.BooleanField(required=False)
    auto_promote = forms.BooleanField(required=False)

    _OF_CANARY = ("weight_ratio", "min_requests", "auto_promote")

    @classmethod
    def initial_of(cls, policy: RolloutPolicy) -> dict[str, object]:
        """Return the form's values for `policy`."""
        plain = to_json(policy)
        return {name: plain["canary"].get(name, plain.get(name)) for name in cls.base_fields}

    def policy(self) -> dict[str, Any]:
        """Return the validated values as a change of the policy."""
        given = dict(self.cleaned_data)
        canary = {name: given.pop(name) for name in self._OF_CANARY}
        return {**given, "canary": canary}
