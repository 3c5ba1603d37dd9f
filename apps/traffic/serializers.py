"""Shapes of keys, usage, metrics and cost in the API."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from rest_framework import serializers

from apps.lib.strict import StrictSerializer
from apps.telemetry.queries import Series
from apps.traffic import budget, queries
from apps.traffic.actions import ANY_MODEL, KeyLimits
from apps.traffic.bill import Basis, Bill, Line
from apps.traffic.budget import BudgetState, Spending
from apps.traffic.models import ApiKey, ModelAlias
from apps.traffic.usage import Group

_LARGEST = 2**31 - 1


def _limit(help_text: str) -> serializers.IntegerField:
    return serializers.IntegerField(
        min_value=1, max_value=_LARGEST, required=False, allow_null=True, help_text=help_text
    )


def _usd(help_text: str) -> serializers.DecimalField:
    return serializers.DecimalField(
        max_digits=12,
        decimal_places=4,
        min_value=Decimal("0.0001"),
        required=False,
        allow_null=True,
        help_text=help_text,
    )


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key; `context["spending"]` says what keys spent, by id."""

    owner = serializers.CharField(source="owner.username", default=None, allow_null=True)
    models = serializers.ListField(child=serializers.CharField(), source="allowed_models")
    budget_usd_per_day = serializers.FloatField(allow_null=True)
    budget_usd_per_month = serializers.FloatField(allow_null=True)
    budget_state = serializers.SerializerMethodField(
        help_text="`none`, `ok`, `low` (80 % is spent), `exhausted` (requests are refused)."
    )
    spent_today_usd = serializers.SerializerMethodField(help_text="Of a day in UTC.")
    spent_this_month_usd = serializers.SerializerMethodField(help_text="Of a month in UTC.")

    class Meta:
        model = ApiKey
        fields = [
            "id",
            "name",
            "prefix",
            "owner",
            "models",
            "rpm",
            "tpm",
            "max_in_flight",
            "budget_usd_per_day",
            "budget_usd_per_month",
            "budget_state",
            "spent_today_usd",
            "spent_this_month_usd",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
        ]
        read_only_fields = fields

    def get_budget_state(self, key: ApiKey) -> BudgetState:
        """Return how much of the budget is left."""
        return budget.state(queries.budget_of(key), self._spent(key))

    def get_spent_today_usd(self, key: ApiKey) -> float:
        """Return what it spent since midnight."""
        return float(self._spent(key).today_usd)

    def get_spent_this_month_usd(self, key: ApiKey) -> float:
        """Return what it spent since the first."""
        return float(self._spent(key).this_month_usd)

    def _spent(self, key: ApiKey) -> Spending:
        spent: Spending = self.context.get("spending", {}).get(key.pk, Spending())
        return spent


class MadeKeySerializer(KeySerializer):
    key = serializers.CharField(help_text="The secret; shown this once, kept nowhere.")

    class Meta(KeySerializer.Meta):
        fields = [*KeySerializer.Meta.fields, "key"]
        read_only_fields = fields


class KeyPatchSerializer(StrictSerializer):
    """What may change of a key. `null` takes a limit away."""

    name = serializers.CharField(max_length=80, required=False, help_text="What it is for.")
    models = serializers.ListField(
        child=serializers.CharField(max_length=200),
        allow_empty=False,
        max_length=100,
        required=False,
        help_text='Names of deployments and aliases it may use; `["*"]` is all.',
    )
    rpm = _limit("Requests per minute.")
    tpm = _limit("Tokens per minute.")
    max_in_flight = _limit("Requests at the same time.")
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    budget_usd_per_day = _usd("What it may spend in a day of UTC; beyond it requests are refused.")
    budget_usd_per_month = _usd("The same for a month of UTC.")

    def limits_over(self, old: KeyLimits) -> KeyLimits:
        """Return `old` with what was sent instead."""
        sent = dict(self.validated_data)
        sent.pop("name", None)
        if "models" in sent:
            sent["allowed_models"] = sent.pop("models")
        return KeyLimits(**{**vars(old), **sent})


class NewKeySerializer(KeyPatchSerializer):
    name = serializers.CharField(max_length=80, help_text="What it is for.")
    models = serializers.ListField(
        child=serializers.CharField(max_length=200),
        allow_empty=False,
        max_length=100,
        default=[ANY_MODEL],
        help_text='Names of deployments and aliases it may use; `["*"]` is all.',
    )


class AliasSerializer(serializers.ModelSerializer[ModelAlias]):
    deployment = serializers.CharField(source="deployment.name")

    class Meta:
        model = ModelAlias
        fields = ["name", "deployment", "created_by", "created_at"]
        read_only_fields = fields


class AliasPatchSerializer(StrictSerializer):
    deployment = serializers.CharField(max_length=63, help_text="Where requests for it go.")


class NewAliasSerializer(AliasPatchSerializer):
    name = serializers.CharField(
        max_length=200, help_text="The name clients send as `model`, such as `gpt-4o`."
    )


class UsageQuery(serializers.Serializer[Any]):
    group_by = serializers.ChoiceField(
        choices=[(g.value, g.value) for g in Group], default=Group.DEPLOYMENT.value
    )
    deployment = serializers.CharField(required=False, help_text="Count this deployment alone.")
    key = serializers.UUIDField(required=False, help_text="Count this API key alone (its id).")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Return the fields; `from` is no name that a class body can assign."""
        return {
            **super().get_fields(),
            "from": serializers.DateTimeField(
                source="since", required=False, help_text="Default: 30 days before `to`."
            ),
            "to": serializers.DateTimeField(
                source="until", required=False, help_text="Not included. Default: now."
            ),
        }


class UsageRowSerializer(serializers.Serializer[Any]):
    group = serializers.CharField(
        allow_null=True, help_text="What is grouped by; a start in UTC for hour, day, month."
    )
    label = serializers.CharField(  # type: ignore[assignment]  # Field has a `label` of its own
        help_text="The group for people, as the name of a key."
    )
    requests = serializers.IntegerField()
    failed = serializers.IntegerField(help_text="Requests that did not complete.")
    prompt_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField(help_text="Of the prompt tokens: found in the cache.")
    output_tokens = serializers.IntegerField()
    shadow_requests = serializers.IntegerField(
        help_text="Copies sent to a new revision, in none of the other counts; no key pays them."
    )
    cost_usd = serializers.FloatField(help_text="Price of the replicas' busy time, copies too.")


def usage_row(row: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, Any]:
    """Return one row of `usage.grouped` as the API has it."""
    value = row["value"]
    text = value.isoformat() if isinstance(value, datetime) else value and str(value)
    return {
        "group": text or None,
        "label": names.get(value, text or "none"),
        "requests": row["requests"],
        "failed": row["failed"],
        "prompt_tokens": row["prompt"],
        "cached_tokens": row["cached"],
        "output_tokens": row["output"],
        "shadow_requests": row["shadows"],
        "cost_usd": float(row["usd"]),
    }


class WindowQuery(serializers.Serializer[Any]):
    window = serializers.CharField(
        default="1h", help_text="How far back from now: `15m`, `6h`, `7d`; 10s to 400d."
    )


class PointSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField(help_text="Start of the bucket.")
    in_flight = serializers.FloatField(help_text="Mean over time.")
    in_flight_peak = serializers.FloatField()
    queued = serializers.FloatField(help_text="Mean over time.")
    queued_peak = serializers.FloatField()
    requests = serializers.IntegerField()
    failed = serializers.IntegerField()
    requests_per_second = serializers.FloatField()
    prompt_tokens_per_second = serializers.FloatField()
    output_tokens_per_second = serializers.FloatField()
    ttft_p50_seconds = serializers.FloatField(
        allow_null=True, help_text="Arrival at the gateway to the first token."
    )
    ttft_p95_seconds = serializers.FloatField(allow_null=True)
    chunk_gap_p50_seconds = serializers.FloatField(
        allow_null=True, help_text="Between streamed chunks, as the gateway sees them."
    )
    chunk_gap_p95_seconds = serializers.FloatField(allow_null=True)
    prefix_cache_hit_ratio = serializers.FloatField(allow_null=True)


class FlowSerializer(serializers.Serializer[Any]):
    """Numbers of this second; percentiles and hit ratio are of the last minute."""

    in_flight = serializers.IntegerField()
    queued = serializers.IntegerField()
    requests_per_second = serializers.FloatField()
    failed_per_second = serializers.FloatField()
    prompt_tokens_per_second = serializers.FloatField()
    output_tokens_per_second = serializers.FloatField()
    ttft_p50_seconds = serializers.FloatField(allow_null=True)
    ttft_p95_seconds = serializers.FloatField(allow_null=True)
    chunk_gap_p50_seconds = serializers.FloatField(allow_null=True)
    chunk_gap_p95_seconds = serializers.FloatField(allow_null=True)
    prefix_cache_hit_ratio = serializers.FloatField(allow_null=True)


class MetricsSerializer(serializers.Serializer[Any]):
    window_seconds = serializers.IntegerField()
    step_seconds = serializers.IntegerField(help_text="Width of a point's bucket.")
    start_at = serializers.DateTimeField()
    end_at = serializers.DateTimeField()
    stale = serializers.BooleanField(help_text="`live` could not be read; it is all zero.")
    live = FlowSerializer()
    whole = PointSerializer(help_text="The window as one bucket.")
    points = PointSerializer(many=True, help_text="An idle bucket has none.")


def series_fields(series: Series) -> dict[str, Any]:
    """Return what the API shows of a series."""
    return {
        "step_seconds": series.step_seconds,
        "start_at": series.start_at,
        "end_at": series.end_at,
        "whole": asdict(series.whole),
        "points": [asdict(point) for point in series.points],
    }


class BasisSerializer(serializers.Serializer[Any]):
    usd = serializers.FloatField()
    usd_per_million_tokens = serializers.FloatField(
        allow_null=True, help_text="Prompt and output tokens together; null without any."
    )


class LinesSerializer(serializers.Serializer[Any]):
    """US dollars by what the reserved time went to; they add up to the allocation."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Return a field a line."""
        return {line.value: serializers.FloatField() for line in Line}


class TokensSerializer(serializers.Serializer[Any]):
    prompt = serializers.IntegerField()
    cached = serializers.IntegerField(help_text="Of the prompt tokens.")
    output = serializers.IntegerField()


class CostSerializer(serializers.Serializer[Any]):
    window_seconds = serializers.IntegerField()
    start_at = serializers.DateTimeField()
    end_at = serializers.DateTimeField()
    price_is_default = serializers.BooleanField(
        help_text="A host's price was never set: the default of its kind counts."
    )
    allocation = BasisSerializer(help_text="All that was reserved, idle time included.")
    usage = BasisSerializer(help_text="The time in which a replica had at least one request.")
    utilization_ratio = serializers.FloatField(allow_null=True)
    lines = LinesSerializer()
    requests = serializers.IntegerField()
    tokens = TokensSerializer()


def bill_fields(bill: Bill) -> dict[str, Any]:
    """Return what the API shows of a bill."""
    return {
        "price_is_default": bill.has_default_price,
        "allocation": _basis(bill.allocation),
        "usage": _basis(bill.usage),
        "utilization_ratio": bill.utilization_ratio,
        "lines": {line.value: float(usd) for line, usd in bill.lines.items()},
        "requests": bill.tokens.requests,
        "tokens": {
            "prompt": bill.tokens.prompt,
            "cached": bill.tokens.cached,
            "output": bill.tokens.output,
        },
    }


def _basis(basis: Basis) -> dict[str, float | None]:
    per_million = basis.usd_per_million_tokens
    return {
        "usd": float(basis.usd),
        "usd_per_million_tokens": None if per_million is None else float(per_million),
    }
