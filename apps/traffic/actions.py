"""Writes of keys, aliases and gateway credentials, and the revision of the routing table."""

import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

from django.conf import settings
from django.db import transaction

from apps.accounts.actions import audit
from apps.accounts.models import User
from apps.deployments.models import Deployment
from apps.lib import clock, doorbell, secrets
from apps.lib.problems import Problem
from apps.telemetry import live
from apps.traffic import keys, queries, routing
from apps.traffic.models import ApiKey, GatewayCredential, ModelAlias, TableRevision
from apps.traffic.routing import Numbered

logger = logging.getLogger(__name__)

ANY_MODEL = "*"
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")

FOLLOW_SECONDS = 1.5
"""The longest a write of a key is held for gateways to follow; a few tenths are usual."""
_FOLLOW_LOOK_SECONDS = 0.03
_REPORTING_SECONDS = 3.0
"""A gateway reports each second; one that was silent for longer is not waited for."""


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """What a key may do. None: no limit."""

    allowed_models: Sequence[str] = (ANY_MODEL,)
    rpm: int | None = None
    tpm: int | None = None
    max_in_flight: int | None = None
    expires_at: datetime | None = None
    budget_usd_per_day: Decimal | None = None
    budget_usd_per_month: Decimal | None = None


def limits_of(key: ApiKey) -> KeyLimits:
    """Return what `key` may do."""
    return KeyLimits(
        allowed_models=tuple(key.allowed_models),
        rpm=key.rpm,
        tpm=key.tpm,
        max_in_flight=key.max_in_flight,
        expires_at=key.expires_at,
        budget_usd_per_day=key.budget_usd_per_day,
        budget_usd_per_month=key.budget_usd_per_month,
    )


# --- Keys --------------------------------------------------------------------------------------


@transaction.atomic
def create_key(
    *, name: str, owner: User, limits: KeyLimits, actor: str, now: datetime
) -> tuple[ApiKey, str]:
    """Make a key; return it and its secret, which is kept nowhere.

    Raises Problem 400 `unknown_model` or `expiry_past`.
    """
    _check(limits, now)
    key_id = uuid4()
    secret = keys.make(key_id)
    key = ApiKey(id=key_id, name=name, owner=owner, created_at=now)
    key.prefix, key.sha256 = keys.prefix(key_id), secrets.digest(secret)
    _set_limits(key, limits)
    key.save(force_insert=True)
    _tell(key, "created", actor)
    return key, secret


@transaction.atomic
def change_key(*, key: ApiKey, name: str, limits: KeyLimits, actor: str, now: datetime) -> ApiKey:
    """Give `key` another name and limits. Raises Problem as `create_key`, and `key_revoked`."""
    if key.revoked_at is not None:
        raise Problem(409, "key_revoked", f"The key {key.prefix} is revoked; make a new one.")
    _check(limits, now if limits.expires_at != key.expires_at else None)
    key.name = name
    _set_limits(key, limits)
    key.save()
    _tell(key, "changed", actor)
    return key


@transaction.atomic
def revoke_key(*, key: ApiKey, actor: str, now: datetime) -> None:
    """End `key`: gateways refuse it as soon as they have the next table. Fine if already ended."""
    if ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=now):
        _tell(key, "revoked", actor)


@transaction.atomic
def playground_key(user: User) -> tuple[str, str]:
    """Return (key id, secret) of the internal key with which pages call the gateway for `user`.

    The secret is derived from the installation's own (`keys.derive`), so it is the same in every
    web process and kept nowhere: whoever reads the database cannot call the gateway with it.
    """
    key = ApiKey.objects.filter(owner=user, internal=True, revoked_at__isnull=True).first()
    if key is None:
        key = ApiKey(id=uuid4(), name="playground", owner=user, internal=True)
        key.prefix, key.created_at, key.allowed_models = (
            keys.prefix(key.pk),
            clock.now(),
            [ANY_MODEL],
        )
    secret = keys.derive(key.pk, settings.SECRET_KEY)
    if key.sha256 != secrets.digest(secret):
        key.sha256 = secrets.digest(secret)
        key.save()
        table_changed()
        transaction.on_commit(await_gateways, robust=True)
    return str(key.pk), secret


def _check(limits: KeyLimits, now: datetime | None) -> None:
    wanted = set(limits.allowed_models) - {ANY_MODEL}
    known = set(Deployment.objects.filter(name__in=wanted).values_list("name", flat=True))
    known |= set(ModelAlias.objects.filter(name__in=wanted).values_list("name", flat=True))
    known |= queries.detours().keys() if wanted - known else set()
    if wanted - known:
        raise Problem(
            400,
            "unknown_model",
            f"models: there is no deployment or alias {', '.join(sorted(wanted - known))}; "
            'name existing ones, or ["*"] for all.',
            extra={"field": "models"},
        )
    if now is not None and limits.expires_at is not None and limits.expires_at <= now:
        raise Problem(
            400, "expiry_past", "expires_at lies in the past.", extra={"field": "expires_at"}
        )


def _set_limits(key: ApiKey, limits: KeyLimits) -> None:
    key.allowed_models = sorted(set(limits.allowed_models))
    key.rpm, key.tpm, key.max_in_flight = limits.rpm, limits.tpm, limits.max_in_flight
    key.expires_at = limits.expires_at
    key.budget_usd_per_day = limits.budget_usd_per_day
    key.budget_usd_per_month = limits.budget_usd_per_month


def _tell(key: ApiKey, verb: str, actor: str) -> None:
    data = {"name": key.name, "prefix": key.prefix, "models": key.allowed_models}
    audit(actor=actor, action=f"api_key.{verb}", target=str(key.pk), data=data)
    table_changed()
    transaction.on_commit(await_gateways, robust=True)


# --- Aliases -----------------------------------------------------------------------------------


@transaction.atomic
def create_alias(*, name: str, deployment: str, actor: str, now: datetime) -> ModelAlias:
    """Make `name` another public name of `deployment`.

    Raises Problem 400 `invalid` or `unknown_deployment`, 409 `name_taken`.
    """
    if not _ALIAS.fullmatch(name):
        raise Problem(
            400,
            "invalid",
            f"name: {name!r} is no model name; begin with a letter or digit, go on with those "
            "and . _ : / -, at most 200.",
            extra={"field": "name"},
        )
    kind = "a deployment" if Deployment.objects.filter(name=name).exists() else "an alias"
    if kind == "a deployment" or ModelAlias.objects.filter(pk=name).exists():
        raise Problem(
            409, "name_taken", f"name: {name} is {kind} already.", extra={"field": "name"}
        )
    alias = ModelAlias(name=name, created_by=actor, created_at=now)
    alias.deployment = _deployment(deployment)
    alias.save(force_insert=True)
    _tell_alias(alias, "created", actor)
    return alias


@transaction.atomic
def point_alias(*, alias: ModelAlias, deployment: str, actor: str) -> ModelAlias:
    """Lead `alias` to another deployment. Raises Problem 400 `unknown_deployment`."""
    alias.deployment = _deployment(deployment)
    alias.save()
    _tell_alias(alias, "changed", actor)
    return alias


@transaction.atomic
def delete_alias(*, alias: ModelAlias, actor: str) -> None:
    """Take the name `alias` away; requests for it are refused from then on."""
    _tell_alias(alias, "deleted", actor)
    alias.delete()


def _deployment(name: str) -> Deployment:
    found = Deployment.objects.filter(name=name).first()
    if found is None:
        raise Problem(
            400,
            "unknown_deployment",
            f"deployment: there is no deployment {name}; see GET /api/v1/deployments/.",
            extra={"field": "deployment"},
        )
    return found


def _tell_alias(alias: ModelAlias, verb: str, actor: str) -> None:
    data = {"deployment": alias.deployment.name}
    audit(actor=actor, action=f"model_alias.{verb}", target=alias.name, data=data)
    names_changed()


# --- Gateways ----------------------------------------------------------------------------------


@transaction.atomic
def ensure_gateway_credential(name: str, path: Path) -> None:
    """See that `path` (mode 0600) holds a credential that is valid for the gateway `name`."""
    credential, _ = secrets.read_or_create(path, secrets.make("hearthgw"))
    GatewayCredential.objects.update_or_create(
        name=name,
        defaults={"sha256": secrets.digest(credential)},
        create_defaults={"sha256": secrets.digest(credential), "created_at": clock.now()},
    )


def table_changed() -> None:
    """Tell the web processes, after commit, to look whether the routing table is another now."""
    doorbell.ring(doorbell.TABLE)


def names_changed() -> None:
    """Tell of new or lost model names after commit, and wait then until the gateways know them."""
    table_changed()
    transaction.on_commit(await_gateways, robust=True)


def await_gateways() -> None:
    """Wait until every gateway that reports has the newest table, at most FOLLOW_SECONDS.

    So a key works the moment its maker has it, and a revoked one is refused when that is answered.
    """
    wanted = refresh_table(clock.now()).revision
    deadline = time.monotonic() + FOLLOW_SECONDS
    pause = threading.Event()
    while any(
        revision < wanted for revision in live.table_revisions(clock.now(), _REPORTING_SECONDS)
    ):
        if time.monotonic() > deadline:
            logger.warning("not every gateway has routing table %s yet", wanted)
            return
        pause.wait(_FOLLOW_LOOK_SECONDS)


def refresh_table(now: datetime) -> Numbered:
    """Return what the routing tables are made from, under a new revision if it has changed.

    Any number of processes may call this at once: the same content gets one revision.
    """
    served = queries.served(now)
    live.put_members(routing.members(served))
    newest = queries.table_revision()
    if newest is not None and newest.sha256 == routing.digest(served):
        return Numbered(newest.number, served)
    return _give_revision(now)


@transaction.atomic
def _give_revision(now: datetime) -> Numbered:
    """Load again behind the row's lock, so that an older content never gets a newer number."""
    row, _ = TableRevision.objects.select_for_update().get_or_create(
        id=1, defaults={"number": 0, "sha256": "", "changed_at": now}
    )
    served = queries.served(now)
    content = routing.digest(served)
    if row.sha256 != content:
        # Past every number of a database that was lost: gateways keep their last table on disk.
        row.number = max(row.number + 1, int(now.timestamp() * 1000))
        row.sha256, row.changed_at = content, now
        row.save()
    return Numbered(row.number, served)
