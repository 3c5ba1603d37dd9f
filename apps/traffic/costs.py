"""Reads what deployments cost over a window, from phases on record and the usage ledger.

Any number of deployments cost the same seven queries. Called by `api`, by pages, and by `exporter`.
"""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Q

from apps.deployments.models import Event, Replica
from apps.deployments.states import ReplicaPhase
from apps.traffic import bill, queries, usage
from apps.traffic.bill import Bill, Reservation, Tokens
from apps.traffic.usage import Group, UsageFilter

_COLUMNS = ("deployment__name", "phase", "phase_at")
_MOVED = "replica."
"""Kinds of the events that tell of a replica's moves: `replica.<phase>`."""


def bills(names: Collection[str] | None, start: datetime, end: datetime) -> dict[str, Bill]:
    """Return the bill of each deployment of `names` (None: all) from `start` to `end`.

    A deployment that held nothing and served nothing has no entry.
    """
    tokens = _tokens(names, start, end)
    reservations = _reservations(names, start, end)
    return {
        name: bill.bill(reservations.get(name, ()), tokens.get(name, Tokens()))
        for name in sorted({*tokens, *reservations})
    }


def bill_of(name: str, start: datetime, end: datetime) -> Bill:
    """Return the bill of the deployment called `name`; all zero if it held and served nothing."""
    return bills([name], start, end).get(name) or bill.bill((), Tokens())


def _tokens(names: Collection[str] | None, start: datetime, end: datetime) -> dict[str, Tokens]:
    rows = usage.grouped(Group.DEPLOYMENT, UsageFilter(since=start, until=end))
    return {
        row["value"]: Tokens(
            row["requests"], row["prompt"], row["cached"], row["output"], Decimal(row["usd"])
        )
        for row in rows
        if names is None or row["value"] in names
    }


def _reservations(
    names: Collection[str] | None, start: datetime, end: datetime
) -> dict[str, list[Reservation]]:
    found = Replica.objects.filter(host__isnull=False, created_at__lt=end).exclude(
        Q(phase=ReplicaPhase.STOPPED) & Q(phase_at__lt=start)
    )
    if names is not None:
        found = found.filter(deployment__name__in=names)
    rows = {row.pk: row for row in found.select_related("deployment").only(*_COLUMNS)}
    rates = queries.replica_rates(rows)
    result: dict[str, list[Reservation]] = defaultdict(list)
    histories = _histories(rows, {row.deployment.name for row in rows.values()}, end)
    for pk, row in rows.items():
        # Events past their retention are gone: then what the row says now is all there is.
        history = histories.get(pk) or [(row.phase_at.timestamp(), ReplicaPhase(row.phase))]
        held = bill.held_seconds(history, start.timestamp(), end.timestamp())
        rate = rates[pk]
        reservation = Reservation(held, rate.usd_per_second, rate.is_default)
        result[row.deployment.name].append(reservation)
    return result


def _histories(
    replicas: Collection[UUID], deployments: Collection[str], end: datetime
) -> dict[UUID, list[tuple[float, ReplicaPhase]]]:
    moves = (
        Event.objects.filter(
            deployment__in=deployments,  # has an index, replicas have none
            replica__in=list(replicas),
            kind__startswith=_MOVED,
            at__lt=end,
        )
        .order_by("at", "id")
        .values_list("replica", "kind", "at")
    )
    histories: dict[UUID, list[tuple[float, ReplicaPhase]]] = defaultdict(list)
    for replica, kind, at in moves:
        word = kind.removeprefix(_MOVED)
        if replica is not None and word in ReplicaPhase:
            histories[replica].append((at.timestamp(), ReplicaPhase(word)))
    return histories
