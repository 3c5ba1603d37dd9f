"""Reads of hosts, their inventories and prices."""

from decimal import Decimal
from typing import TYPE_CHECKING, TypedDict
from uuid import UUID

import msgspec
from django.db.models import Count, Q, QuerySet

from agents.wire import Inventory
from apps.fleet.models import DefaultPrice, Host, Incarnation, JoinToken
from apps.fleet.prices import PriceBook
from apps.fleet.silence import SeenHost
from apps.fleet.states import HostState
from apps.lib import secrets
from apps.lib.problems import Problem

if TYPE_CHECKING:
    from django_stubs_ext import WithAnnotations

    class _Counts(TypedDict):
        live_replicas: int

    type CountedHost = WithAnnotations[Host, _Counts]
    """A host with how many replicas it holds that are not gone."""

_GONE, _ORDERED_GONE = "stopped", "absent"
"""The final phase of a replica, and the wish for it, as `apps.deployments.states` has them, which
this app may not know."""


def hosts() -> "QuerySet[CountedHost]":
    """Return all hosts by name, each with `live_replicas`: how many it holds that are not gone."""
    served = Count("replicas", filter=~Q(replicas__phase=_GONE), distinct=True)
    # A part of one whose head is elsewhere; what was ordered gone holds no host that is lost.
    over = Q(members__phase=_GONE) | Q(members__replica__desired=_ORDERED_GONE)
    parts = Count("members", filter=Q(members__rank__gt=0) & ~over, distinct=True)
    return Host.objects.annotate(live_replicas=served + parts).order_by("name", "id")


def host(name: str) -> "CountedHost":
    """Return the host of that name, with `live_replicas`. Raises Problem 404 `host_unknown`."""
    found = hosts().filter(name=name).first()
    if found is None:
        raise Problem(404, "host_unknown", f"There is no host `{name}`; see GET /api/v1/hosts/.")
    return found


def host_by_credential(credential: str) -> Host | None:
    """Return the host that holds `credential`, without its large columns; None if none does."""
    return (
        Host.objects.filter(credential_sha256=secrets.digest(credential))
        .defer("inventory", "labels")
        .first()
    )


def inventory_of(host: Host) -> Inventory:
    """Return what the host's agent last said it has."""
    return msgspec.convert(host.inventory, Inventory)


def seen_hosts() -> list[SeenHost]:
    """Return what the decision about silence needs, of all hosts."""
    rows = Host.objects.order_by("id").values_list(
        "id", "name", "state", "state_at", "last_seen_at"
    )
    return [
        SeenHost(id=pk, name=name, state=HostState(state), state_at=state_at, last_seen_at=seen_at)
        for pk, name, state, state_at, seen_at in rows
    ]


def price_book() -> PriceBook:
    """Return the default prices that hold now: one query, fit for a whole list of hosts."""
    return PriceBook(dict(DefaultPrice.objects.values_list("kind", "price_per_hour_usd")))


def price_of(host: Host, book: PriceBook | None = None) -> tuple[Decimal, bool]:
    """Return (USD per hour, whether it is a default price) of `host`."""
    names = [gpu["name"] for gpu in host.inventory.get("gpus", ())]
    return (book or price_book()).of_host(host.price_per_hour_usd, names)


def join_tokens() -> QuerySet[JoinToken]:
    """Return all join tokens, newest first, with the hosts they enrolled."""
    return JoinToken.objects.select_related("host").order_by("-created_at", "id")


def incarnation_id() -> UUID | None:
    """Return the identity of this database, None before `actions.incarnation` made it."""
    return Incarnation.objects.values_list("id", flat=True).first()
