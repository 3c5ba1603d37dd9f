"""The JSON of hosts, join tokens and prices: what goes out, and what comes in."""

from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from rest_framework import serializers

from agents.wire import RuntimeKind
from apps.fleet import queries
from apps.fleet.models import Host, JoinToken
from apps.fleet.prices import PriceBook
from apps.fleet.states import LABEL_PART, TAINTS_LIMIT, HostState
from apps.lib.strict import StrictSerializer

_LABELS_LIMIT = 64
_RELAY_PORT = 8470
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class PriceField(serializers.DecimalField):
    """US dollars an hour, from 0 to a million, as a JSON number."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - options of a DRF field
        super().__init__(
            max_digits=12,
            decimal_places=6,
            min_value=Decimal(0),
            max_value=Decimal(999_999),
            coerce_to_string=False,
            **options,
        )


class GpuSerializer(serializers.Serializer[Any]):
    uuid = serializers.CharField()
    index = serializers.IntegerField()
    name = serializers.CharField()
    memory_total_bytes = serializers.IntegerField()
    memory_used_bytes = serializers.IntegerField()
    compute_capability = serializers.CharField()
    nvlink_group = serializers.IntegerField(
        allow_null=True, help_text="GPUs of one group reach each other over NVLink."
    )
    parent_uuid = serializers.CharField(help_text="Of a MIG slice: the GPU it is cut from.")


class TaintSerializer(StrictSerializer):
    key = serializers.RegexField(LABEL_PART)
    value = serializers.RegexField(LABEL_PART, required=False)
    effect = serializers.ChoiceField(
        choices=[("refuse", "refuse"), ("avoid", "avoid")],
        default="refuse",
        help_text="Keep orders away that do not tolerate it, or make the host the last choice.",
    )


class HostSerializer(serializers.Serializer[Host]):
    """Shape of what `host_row` returns."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=[(s.value, s.value) for s in HostState])
    state_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField(help_text="To about ten seconds.")
    created_at = serializers.DateTimeField()
    cordoned = serializers.BooleanField(help_text="Drained: takes no more replicas.")
    labels = serializers.DictField(child=serializers.CharField())
    taints = TaintSerializer(many=True)
    replicas = serializers.IntegerField(help_text="Replicas it holds that are not stopped.")
    price_per_hour_usd = PriceField()
    price_is_default = serializers.BooleanField(
        help_text="Nobody set this host's price: it is the default of its kind."
    )
    hostname = serializers.CharField()
    os = serializers.CharField()
    architecture = serializers.CharField()
    cpu_model = serializers.CharField()
    cpu_features = serializers.ListField(
        child=serializers.CharField(),
        allow_null=True,
        help_text="Wide vector units that decide about engines; null if unknown.",
    )
    cpu_count = serializers.IntegerField()
    memory_total_bytes = serializers.IntegerField()
    memory_available_bytes = serializers.IntegerField()
    disk_total_bytes = serializers.IntegerField()
    disk_free_bytes = serializers.IntegerField()
    gpus = GpuSerializer(many=True)
    driver_version = serializers.CharField()
    agent_version = serializers.CharField()
    runtime = serializers.ChoiceField(choices=[(kind.value, kind.value) for kind in RuntimeKind])
    runtime_reason = serializers.CharField(help_text="Why this runtime was taken.")
    engine_versions = serializers.DictField(child=serializers.CharField())
    relay_url = serializers.CharField()


_INVENTORY_FIELDS = (
    "hostname", "os", "architecture", "cpu_model", "cpu_features", "cpu_count",
    "memory_total_bytes", "memory_available_bytes", "disk_total_bytes", "disk_free_bytes",
    "driver_version", "agent_version", "runtime", "runtime_reason", "engine_versions", "relay_url",
)  # fmt: skip

_GPU_FIELDS = (
    "uuid", "index", "name", "memory_total_bytes", "memory_used_bytes", "compute_capability",
    "nvlink_group", "parent_uuid",
)  # fmt: skip


def host_row(host: "queries.CountedHost", book: PriceBook) -> dict[str, Any]:
    """Return the JSON of a row of `queries.hosts()`; makes no query."""
    inventory = queries.inventory_of(host)
    price, is_default = queries.price_of(host, book)
    return {
        "id": host.id,
        "name": host.name,
        "state": host.state,
        "state_at": host.state_at,
        "last_seen_at": host.last_seen_at,
        "created_at": host.created_at,
        "cordoned": host.cordoned,
        "labels": host.labels,
        "taints": host.taints,
        "replicas": host.live_replicas,
        "price_per_hour_usd": float(price),
        "price_is_default": is_default,
        **{name: getattr(inventory, name) for name in _INVENTORY_FIELDS},
        "gpus": [{name: getattr(gpu, name) for name in _GPU_FIELDS} for gpu in inventory.gpus],
    }


class HostPatchSerializer(StrictSerializer):
    price_per_hour_usd = PriceField(
        required=False, allow_null=True, help_text="null goes back to the default of its kind."
    )
    labels = serializers.DictField(
        child=serializers.RegexField(
            LABEL_PART,
            error_messages={"invalid": "Use 1 to 63 letters, digits and . _ / - between them."},
        ),
        required=False,
        help_text="Replaces all labels.",
    )
    taints = serializers.ListField(
        child=TaintSerializer(),
        required=False,
        max_length=TAINTS_LIMIT,
        help_text="Replaces all taints.",
    )

    def validate_labels(self, labels: dict[str, str]) -> dict[str, str]:
        """Return `labels`. Raises ValidationError for too many, or a name that is not allowed."""
        if len(labels) > _LABELS_LIMIT:
            raise serializers.ValidationError(f"Give at most {_LABELS_LIMIT} labels.")
        name_field = serializers.RegexField(
            LABEL_PART,
            error_messages={"invalid": "A name holds 1 to 63 letters, digits and . _ / -."},
        )
        for name in labels:
            name_field.run_validation(name)
        return labels

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return `attrs`. Raises ValidationError when there is nothing to change."""
        if not attrs:
            raise serializers.ValidationError("Give price_per_hour_usd, labels or taints.")
        return attrs


class JoinTokenSerializer(serializers.ModelSerializer[JoinToken]):
    host = serializers.CharField(
        source="host.name", allow_null=True, default=None, help_text="The host it enrolled."
    )

    class Meta:
        model = JoinToken
        fields = ["id", "created_by", "created_at", "expires_at", "used_at", "host"]


class MadeJoinTokenSerializer(JoinTokenSerializer):
    token = serializers.CharField(help_text="The secret; shown this once, kept nowhere.")
    command = serializers.CharField(help_text="Run it in a checkout of Hearth on the new host.")

    class Meta(JoinTokenSerializer.Meta):
        fields = [*JoinTokenSerializer.Meta.fields, "token", "command"]


class NewJoinTokenSerializer(StrictSerializer):
    name = serializers.RegexField(
        r"\A[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z",
        required=False,
        allow_null=True,
        default=None,
        error_messages={"invalid": "Use up to 63 letters, digits, dots and dashes."},
        help_text="Name of the new host in the command; what its system calls itself if not given.",
    )


def join_command(token: str, address: str, host_name: str | None = None) -> str:
    """Return the shell command that starts an agent on a new host and enrols it.

    `address` is how the caller reached the control plane; HEARTH_PUBLIC_URL goes before it. The
    token stands in the environment, where other users of the host cannot read it. A control plane
    on loopback can only be joined from its own machine, whose gateway needs no open port; any
    other host opens its relay's.
    """
    url = settings.PUBLIC_URL or address.rstrip("/")
    words = [
        f"HEARTH_JOIN_TOKEN={token} .venv/bin/python -m agents --control-plane {url}",
        f'--data-dir "$HOME/.hearth/{host_name or "agent"}"',
    ]
    if host_name:
        words.append(f"--name {host_name}")
    if urlsplit(url).hostname not in _LOOPBACK:
        words.append(f"--relay-listen 0.0.0.0:{_RELAY_PORT}")
        words.append(f'--relay-public-url "http://$(hostname -f):{_RELAY_PORT}"')
    return " ".join(words)


class DefaultPriceSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField(help_text="`cpu`, or a GPU kind as `h100`.")
    price_per_hour_usd = PriceField()
    is_set = serializers.BooleanField(help_text="An admin set it; else it comes with Hearth.")


class NewDefaultPriceSerializer(StrictSerializer):
    price_per_hour_usd = PriceField()
