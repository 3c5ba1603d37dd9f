"""Reads of keys and of what the routing table is made from."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import cast
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection
from django.db.models import F, OuterRef, Q, QuerySet, Subquery, Sum, UUIDField
from django.db.models.functions import Coalesce
from django.utils.module_loading import import_string

from agents.wire import Endpoint, EngineSpec
from apps.accounts.models import AuditEntry
from apps.deployments import members, rollout_policy
from apps.deployments.models import Deployment, Event, Member, Replica, Revision, Rollout
from apps.deployments.splits import Split, split
from apps.deployments.states import (
    COMING,
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
    RolloutStage,
    RolloutState,
)
from apps.fleet.models import Host
from apps.fleet.prices import PriceBook, share_of_host
from apps.fleet.queries import price_book, price_of
from apps.lib.problems import Problem
from apps.traffic import budget, cost, routing
from apps.traffic.budget import Budget, BudgetState, Spending
from apps.traffic.models import (
    ApiKey,
    GatewayCredential,
    ModelAlias,
    TableRevision,
    UsageHour,
    UsageRow,
)
from apps.traffic.routing import Numbered, Served, ServedAlias, ServedModel, ServedReplica
from gateway.wire import Detour, KeyRoute, RouteState, RoutingTable, Wake

_MARKED = (
    (Event._meta.db_table, "id"),
    (AuditEntry._meta.db_table, "id"),
    (TableRevision._meta.db_table, "number"),
)
_SERVING = (ReplicaPhase.READY, ReplicaPhase.DRAINING)
_EXPIRED_TOLD_FOR = timedelta(days=1)
_RATE_COLUMNS = (
    "gpu_uuids",
    "memory_bytes",
    "master_port",
    "host__name",
    "host__inventory",
    "host__price_per_hour_usd",
)
_NOT_WAKEABLE = (DeploymentPhase.STOPPED, DeploymentPhase.FAILED)


# --- Keys --------------------------------------------------------------------------------------


def api_keys() -> QuerySet[ApiKey]:
    """Return the keys that people made, newest first, with their owners."""
    return (
        ApiKey.objects.filter(internal=False).select_related("owner").order_by("-created_at", "id")
    )


def api_key(key_id: UUID) -> ApiKey:
    """Return a key that somebody made. Raises Problem 404 `key_unknown`."""
    found = api_keys().filter(pk=key_id).first()
    if found is None:
        raise Problem(
            404, "key_unknown", f"There is no API key {key_id}; see GET /api/v1/api-keys/."
        )
    return found


def budget_of(key: ApiKey) -> Budget:
    """Return what `key` may spend."""
    return Budget(key.budget_usd_per_day, key.budget_usd_per_month)


def budgets(keys: Iterable[UUID]) -> dict[UUID, Budget]:
    """Return the budgets of those of `keys` that have one."""
    found = ApiKey.objects.filter(pk__in=list(keys)).exclude(
        budget_usd_per_day__isnull=True, budget_usd_per_month__isnull=True
    )
    return {key.pk: budget_of(key) for key in found}


def spending(keys: Iterable[UUID], now: datetime) -> dict[UUID, Spending]:
    """Return what each of `keys` spent since the day and the month of `now` began; one query."""
    wanted = {str(key): key for key in keys}
    if not wanted:
        return {}
    rows = UsageHour.objects.filter(key__in=wanted, hour__gte=budget.month_start(now))
    sums = rows.values("key").annotate(
        month=Sum("cost_usd"),
        today=Sum("cost_usd", filter=Q(hour__gte=budget.day_start(now)), default=Decimal(0)),
    )
    found = {row["key"]: Spending(row["today"], row["month"]) for row in sums.order_by()}
    return {key: found.get(text, Spending()) for text, key in wanted.items()}


# --- Aliases -----------------------------------------------------------------------------------


def aliases() -> QuerySet[ModelAlias]:
    """Return all aliases with their deployments, by name."""
    return ModelAlias.objects.select_related("deployment").order_by("name")


def alias(name: str) -> ModelAlias:
    """Return the alias called `name`. Raises Problem 404 `alias_unknown`."""
    found = aliases().filter(pk=name).first()
    if found is None:
        raise Problem(
            404, "alias_unknown", f"There is no alias {name}; see GET /api/v1/model-aliases/."
        )
    return found


def check_deployment(name: str) -> None:
    """Raise Problem 404 `not_found` unless there is a deployment called `name`."""
    if not Deployment.objects.filter(name=name).exists():
        raise Problem(404, "not_found", f"There is no deployment called {name}.")


def gateway_credentials() -> dict[str, str]:
    """Return the gateways' credentials: SHA-256 -> name."""
    return dict(GatewayCredential.objects.values_list("sha256", "name"))


# --- Routing table -----------------------------------------------------------------------------


def routing_table(host_name: str, now: datetime) -> RoutingTable:
    """Return the table for gateways on `host_name`, with the newest revision given out."""
    number = TableRevision.objects.values_list("number", flat=True).first() or 0
    return routing.table(Numbered(number, served(now)), host_name)


def table_revision() -> TableRevision | None:
    """Return the newest revision given out; None before the first."""
    return TableRevision.objects.first()


type Marks = tuple[int | None, ...]
"""Newest event, newest audit entry, newest table: when none has moved, hardly anything has."""


def marks() -> Marks:
    """Return the marks: one query that costs the same however large the tables are."""
    newest = ", ".join(f"(SELECT MAX({column}) FROM {table})" for table, column in _MARKED)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {newest}")
        return tuple(cursor.fetchone())


def served(now: datetime) -> Served:
    """Return everything that any gateway may need: seven queries and one for new revisions."""
    replicas = defaultdict(list)
    for row in _replica_rows():
        replicas[row.deployment_id].append(row)
    splits = _splits()
    models = (
        _model(row, replicas[row.pk], splits.get(row.pk, Split())) for row in _deployment_rows()
    )
    keys = list(_usable_keys(now))
    spent = spending([key.pk for key in keys if budget_of(key).is_set], now)
    return Served(
        models=tuple(model for model in models if model is not None),
        keys=tuple(_key_route(row, spent.get(row.pk, Spending()), now) for row in keys),
        aliases=tuple(
            ServedAlias(name=row.name, deployment=row.deployment.name) for row in aliases()
        ),
        detours=detours(),
    )


def detours() -> dict[str, Detour]:
    """Return the names in front of deployments that other apps answer, from every source."""
    sources = (import_string(path) for path in settings.DETOUR_SOURCES)
    return {name: detour for source in sources for name, detour in source().items()}


def _splits() -> dict[UUID, Split]:
    """Return how open rollouts split the requests of their deployments."""
    rows = Rollout.objects.filter(state=RolloutState.OPEN).select_related("live", "candidate")
    return {
        row.deployment_id: split(
            rollout_policy.stored(row.policy),
            RolloutStage(row.stage),
            live=row.live.number,
            candidate=row.candidate.number,
        )
        for row in rows.only(
            "deployment_id", "policy", "stage", "live__number", "candidate__number"
        ).order_by("id")
    }


def _deployment_rows() -> QuerySet[Deployment]:
    newest = Revision.objects.filter(deployment=OuterRef("pk")).order_by("-number")
    return (
        Deployment.objects.select_related("scaling")
        .annotate(
            newest_revision=Coalesce(
                F("live_id"), Subquery(newest.values("pk")[:1]), output_field=UUIDField()
            )
        )
        .filter(newest_revision__isnull=False)
        .only("name", "created_at", "desired", "phase", "scaling__max_replicas")
        .order_by("name", "id")
    )


def _replica_rows() -> QuerySet[Replica]:
    """Return the replicas that serve, drain or come up, without their large columns."""
    return (
        Replica.objects.filter(phase__in=[*_SERVING, *COMING])
        .select_related("host", "revision")
        .only(
            "deployment_id",
            "revision__number",
            "phase",
            "phase_at",
            "desired",
            "ready_at",
            "endpoint",
            "progress",
            "kv_cache_tokens",
            "host__name",
            "host__relay_key",
        )
        .order_by("created_at", "id")
    )


def _model(row: Deployment, replicas: list[Replica], its_split: Split) -> ServedModel | None:
    serving = [served for r in replicas if (served := _served_replica(r)) is not None]
    is_wanted = row.desired == DesiredDeployment.RUNNING
    if not serving and not is_wanted:
        return None
    takes_new = any(served.state is RouteState.READY for served in serving)
    wakeable = is_wanted and not takes_new and _can_wake(row)
    return ServedModel(
        name=row.name,
        created_at=row.created_at.timestamp(),
        spec=_spec_of(row, replicas),
        replicas=tuple(serving),
        wakeable=wakeable,
        wake=_wake(row, replicas) if wakeable else None,
        shares=its_split.shares,
        shadow=its_split.shadow,
    )


def _can_wake(row: Deployment) -> bool:
    return row.phase not in _NOT_WAKEABLE and row.scaling.max_replicas > 0


def _wake(row: Deployment, replicas: Iterable[Replica]) -> Wake:
    """Return what a waiting client is told: how far the first replica to come up is."""
    coming = [r for r in replicas if r.phase in COMING]
    if not coming:
        return Wake(phase=row.phase)
    first = max(coming, key=lambda r: (r.phase == ReplicaPhase.STARTING, r.phase_at))
    progress = first.progress or {}
    return Wake(
        phase=progress.get("stage") or first.phase,
        eta_seconds=routing.eta(progress.get("eta_seconds")),
    )


def _served_replica(row: Replica) -> ServedReplica | None:
    if row.phase not in _SERVING or row.endpoint is None or row.host is None:
        return None
    takes_new = row.phase == ReplicaPhase.READY and row.desired == DesiredReplica.RUNNING
    return ServedReplica(
        id=str(row.pk),
        host=row.host.name,
        relay_key=row.host.relay_key,
        endpoint=msgspec.convert(row.endpoint, Endpoint),
        state=RouteState.READY if takes_new else RouteState.DRAINING,
        kv_cache_tokens=row.kv_cache_tokens,
        ready_at=row.ready_at.timestamp() if row.ready_at else None,
        revision=row.revision.number,
    )


def _spec_of(row: Deployment, replicas: list[Replica]) -> EngineSpec:
    """Return the spec of the newest replica that serves, else of the newest revision."""
    serving = [r for r in replicas if r.phase in _SERVING]
    newest: UUID = row.newest_revision  # type: ignore[attr-defined]  # annotated
    revision = serving[-1].revision_id if serving else newest
    return _spec(revision)


@lru_cache(maxsize=2048)
def _spec(revision_id: UUID) -> EngineSpec:
    """Revisions never change, so each is read once."""
    spec = Revision.objects.values_list("spec", flat=True).get(pk=revision_id)
    return msgspec.convert(spec, EngineSpec)


def _usable_keys(now: datetime) -> QuerySet[ApiKey]:
    """Return the keys that work. An expired one stays a day, so that its holder is told so."""
    return (
        ApiKey.objects.filter(revoked_at__isnull=True, owner__is_active=True)
        .select_related("owner")
        .filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now - _EXPIRED_TOLD_FOR))
        .order_by("created_at", "id")
    )


def _key_route(row: ApiKey, spent: Spending, now: datetime) -> KeyRoute:
    limit = budget_of(row)
    state, resets_at = budget.state(limit, spent), budget.resets_at(limit, spent, now)
    return KeyRoute(
        id=str(row.pk),
        sha256=row.sha256,
        models=tuple(row.allowed_models),
        rpm=row.rpm,
        tpm=row.tpm,
        max_in_flight=row.max_in_flight,
        expires_at=row.expires_at.timestamp() if row.expires_at else None,
        tenant=routing.tenant(row.owner.team) if row.owner else "",
        budget_exhausted=state is BudgetState.EXHAUSTED,
        budget_low=state is BudgetState.LOW,
        budget_resets_at=resets_at.timestamp() if resets_at else None,
    )


# --- Cost --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplicaRate:
    """What one replica's share of its host costs."""

    host: str
    usd_per_second: Decimal
    is_default: bool
    """The price is Hearth's default for the kind of GPU or CPU host."""


def replica_rates(replicas: Iterable[UUID]) -> dict[UUID, ReplicaRate]:
    """Return what each of these replicas costs while it holds its share; two queries.

    Of one over several hosts what it holds of all of them, by one more query.
    """
    rows = Replica.objects.filter(pk__in=list(replicas), host__isnull=False).select_related("host")
    book, found = price_book(), list(rows.only(*_RATE_COLUMNS))
    parts = members.of(found)
    return {row.pk: _rate(row, parts.get(row.pk) or [row], book) for row in found}


def _rate(row: Replica, places: Sequence[Replica | Member], book: PriceBook) -> ReplicaRate:
    usd, has_default = Decimal(0), False
    for place in places:
        host = cast(Host, place.host)
        per_hour, is_default = price_of(host, book)
        has_default |= is_default
        usd += per_hour * share_of_host(
            gpus=len(place.gpu_uuids),
            host_gpus=len(host.inventory.get("gpus", ())),
            memory_bytes=row.memory_bytes,
            host_memory_bytes=host.inventory.get("memory_total_bytes", 0),
        )
    return ReplicaRate(cast(Host, row.host).name, usd / 3600, has_default)


def busy_intervals(replica: UUID, since: datetime) -> list[cost.Interval]:
    """Return when `replica` was busy with requests on record that ended after `since`."""
    rows = UsageRow.objects.filter(replica=replica, finished_at__gte=since)
    return [
        (admitted_at.timestamp() + queue_seconds, finished_at.timestamp())
        for admitted_at, queue_seconds, finished_at in rows.values_list(
            "admitted_at", "queue_seconds", "finished_at"
        )
    ]
