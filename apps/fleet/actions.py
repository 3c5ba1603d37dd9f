"""Writes about hosts. Moves of a host's state are returned: the caller writes the Events.

(Events belong to the app above this one.) Call what returns moves inside a transaction and write
the Events in it, so that no move stays untold.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import F

from agents.wire import EnrolReply, EnrolRequest, Inventory, encode
from apps.accounts.actions import audit
from apps.fleet import enrolment, queries
from apps.fleet.models import DefaultPrice, Host, Incarnation
from apps.fleet.silence import HostMove, due_moves
from apps.fleet.states import TAINTS_LIMIT, HostState
from apps.lib import clock, doorbell, live
from apps.lib.problems import Problem

SEEN_WRITTEN_EVERY = timedelta(seconds=10)
"""`last_seen_at` is this coarse: 200 hosts that report each second cost 20 writes a second."""

create_join_token = enrolment.create_join_token
revoke_join_token = enrolment.revoke_join_token


def enrol(request: EnrolRequest, now: datetime) -> EnrolReply:
    """Trade a one-time join token for a host's own credential. Problems: see `enrolment.enrol`."""
    return enrolment.enrol(request, str(incarnation()), now)[1]


def authenticate(credential: str) -> Host | None:
    """Return the host that holds `credential`, None if none does: one indexed read."""
    return queries.host_by_credential(credential)


def incarnation() -> UUID:
    """Return the identity of this database, made at the first call."""
    known = queries.incarnation_id()
    if known is not None:
        return known
    made, _ = Incarnation.objects.get_or_create(
        singleton=True, defaults={"created_at": clock.now()}
    )
    return made.pk


def touch(host: Host, now: datetime) -> HostMove | None:
    """Note that `host` gave a sign of life; return the move back to ready, if it was silent."""
    if host.state != HostState.READY:
        return _welcome_back(host, now)
    if now - host.last_seen_at >= SEEN_WRITTEN_EVERY:
        Host.objects.filter(pk=host.pk, last_seen_at__lt=now).update(last_seen_at=now)
        host.last_seen_at = now
    return None


def _welcome_back(host: Host, now: datetime) -> HostMove | None:
    old = HostState(host.state)
    moved = Host.objects.filter(pk=host.pk, state=old).update(
        state=HostState.READY, state_at=now, last_seen_at=now
    )
    host.state, host.state_at, host.last_seen_at = HostState.READY, now, now
    if not moved:  # another report was first
        return None
    _tell(host.name)
    return HostMove(
        host_id=host.pk,
        host=host.name,
        old=old,
        new=HostState.READY,
        reason=f"{host.name} reports again.",
    )


def record_inventory(host: Host, inventory: Inventory, now: datetime) -> bool:
    """Keep what the host's agent says it has; return whether anything changed."""
    new = msgspec.json.decode(encode(inventory))
    if host.inventory == new:
        return False
    Host.objects.filter(pk=host.pk).update(inventory=new, last_seen_at=now)
    host.inventory = new
    _tell(host.name)
    return True


@transaction.atomic
def sweep_silent(now: datetime) -> list[HostMove]:
    """Move the hosts that have been silent too long; return the moves that were made.

    Safe to run in several controllers at once: a host that spoke or moved meanwhile stays.
    """
    seen = {host.id: host for host in queries.seen_hosts()}
    return [
        move
        for move in due_moves(list(seen.values()), now)
        if _move_silent(move, seen[move.host_id].last_seen_at, now)
    ]


def _move_silent(move: HostMove, seen_at: datetime, now: datetime) -> bool:
    moved = Host.objects.filter(pk=move.host_id, state=move.old, last_seen_at=seen_at).update(
        state=move.new, state_at=now
    )
    if moved:
        _tell(move.host)
    return bool(moved)


@transaction.atomic
def declare_lost(*, host: Host, actor: str, now: datetime) -> HostMove:
    """Give up a silent host now, without waiting and even while giving up is frozen.

    Raises Problem 409 `host_not_silent` for a host that reports or is lost already.
    """
    moved = Host.objects.filter(pk=host.pk, state=HostState.UNKNOWN).update(
        state=HostState.LOST, state_at=now
    )
    if not moved:
        raise Problem(
            409,
            "host_not_silent",
            f"`{host.name}` is {host.state}; only a silent host can be lost.",
        )
    audit(actor=actor, action="host.declared_lost", target=host.name)
    _tell(host.name)
    return HostMove(
        host_id=host.pk,
        host=host.name,
        old=HostState.UNKNOWN,
        new=HostState.LOST,
        reason=f"{actor} declared {host.name} lost.",
    )


def drain(*, host: Host, actor: str) -> None:
    """Place nothing more on `host`, and move away what it serves."""
    _cordon(host, actor, wanted=True, action="host.drained")


def uncordon(*, host: Host, actor: str) -> None:
    """Place on `host` again."""
    _cordon(host, actor, wanted=False, action="host.uncordoned")


@transaction.atomic
def _cordon(host: Host, actor: str, *, wanted: bool, action: str) -> None:
    changed = Host.objects.filter(pk=host.pk).exclude(cordoned=wanted).update(cordoned=wanted)
    host.cordoned = wanted
    if changed:
        audit(actor=actor, action=action, target=host.name)
        _tell(host.name)


def set_price(*, host: Host, price_per_hour_usd: Decimal | None, actor: str) -> None:
    """Set what an hour of `host` costs; None goes back to the default of its kind."""
    change_host(host=host, actor=actor, price_per_hour_usd=price_per_hour_usd)


@transaction.atomic
def add_taint(*, host: Host, taint: Mapping[str, str], actor: str) -> None:
    """Put a mark on the host, in place of one with the same key and value.

    Raises Problem 409 `too_many_taints`.
    """
    taints = [*_other_taints(host, taint), dict(taint)]
    if len(taints) > TAINTS_LIMIT:
        raise Problem(
            409,
            "too_many_taints",
            f"`{host.name}` has {TAINTS_LIMIT} taints already: take one away first.",
        )
    change_host(host=host, actor=actor, taints=taints)


@transaction.atomic
def remove_taint(*, host: Host, taint: Mapping[str, str], actor: str) -> None:
    """Take a mark off the host; fine if it has none of that key and value."""
    left = _other_taints(host, taint)
    if left != host.taints:
        change_host(host=host, actor=actor, taints=left)


def _other_taints(host: Host, taint: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the taints of the locked row of `host` but the one that `taint` names."""
    host.taints = Host.objects.select_for_update().get(pk=host.pk).taints
    named = taint["key"], taint.get("value", "")
    return [one for one in host.taints if (one["key"], one.get("value", "")) != named]


@transaction.atomic
def change_host(
    *, host: Host, actor: str, **values: Decimal | dict[str, str] | list[dict[str, str]] | None
) -> None:
    """Set `price_per_hour_usd`, `labels` or `taints`, whichever is given."""
    for name, value in values.items():
        old = getattr(host, name)
        setattr(host, name, value)
        audit(
            actor=actor,
            action=f"host.{name}_set",
            target=host.name,
            data={"old": old, "new": value},
        )
    host.save(update_fields=list(values))
    _tell(host.name)


@transaction.atomic
def set_default_price(*, kind: str, price_per_hour_usd: Decimal, actor: str) -> DefaultPrice:
    """Set the default price of one GPU of `kind`, or of a host without GPUs (`cpu`)."""
    price, _ = DefaultPrice.objects.update_or_create(
        kind=kind, defaults={"price_per_hour_usd": price_per_hour_usd}
    )
    audit(
        actor=actor,
        action="default_price.set",
        target=kind,
        data={"price_per_hour_usd": price_per_hour_usd},
    )
    return price


@transaction.atomic
def reset_default_price(*, kind: str, actor: str) -> None:
    """Go back to the price of `kind` that comes with Hearth."""
    if DefaultPrice.objects.filter(kind=kind).delete()[0]:
        audit(actor=actor, action="default_price.reset", target=kind)


@transaction.atomic
def delete_host(*, host: Host, actor: str) -> None:
    """Forget a host that is gone for good; its credential dies with it.

    Raises Problem 409 `host_alive` while its agent may come back, `host_in_use` while replicas
    are placed on it. Its stopped replicas stay as history without a host.
    """
    counted = queries.host(host.name)
    if counted.state != HostState.LOST and counted.agent_epoch > 0:
        raise Problem(
            409,
            "host_alive",
            f"`{host.name}` is {host.state}. Stop its agent; it can be deleted once it is lost.",
        )
    if counted.live_replicas:
        raise Problem(
            409,
            "host_in_use",
            f"`{host.name}` still holds {counted.live_replicas} replicas. Drain it first.",
        )
    host.replicas.update(host=None)
    audit(actor=actor, action="host.deleted", target=host.name)
    name = host.name
    host.delete()
    _tell(name)


def bump_revision(host: Host | UUID) -> None:
    """Say that the host's desired state changed: its sync is answered after the commit."""
    bump_revisions([host.pk if isinstance(host, Host) else host])


def bump_revisions(hosts: Collection[UUID]) -> None:
    """Say so of many hosts, with one query."""
    Host.objects.filter(pk__in=hosts).update(revision=F("revision") + 1)
    doorbell.ring(*(doorbell.host_topic(pk) for pk in hosts))


def _tell(name: str) -> None:
    doorbell.ring(doorbell.CONTROLLER)
    live.publish(live.FLEET, "host", host=name)
