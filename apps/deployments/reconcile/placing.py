"""Write placements: bookings, replicas, decisions, events. Called by `loop` with all of a pass.

All in one transaction and a fixed number of queries, however many replicas and deployments. A
replica that moved since the snapshot, or whose room another controller has taken, is left as it is:
the next pass plans it anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from apps.deployments import bookings, observed
from apps.deployments.bookings import NotBooked, Wish
from apps.deployments.models import Decision, Event, Replica
from apps.deployments.reconcile.placement import Candidate, Placed, shown_refusals
from apps.deployments.reconcile.seating import seat
from apps.deployments.reconcile.snapshot import Snapshot
from apps.deployments.states import ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.lib import doorbell, live


@dataclass(frozen=True)
class Placement:
    """A replica of one deployment, and where it goes."""

    deployment: Snapshot
    replica_id: UUID
    placed: Placed


def place(todo: Sequence[Placement], now: datetime) -> None:
    """Write the placements `todo`; where the database finds one device overdrawn, one by one."""
    try:
        _place(todo, now)
    except NotBooked:
        if len(todo) == 1:
            return
        for one in todo:
            place([one], now)


@transaction.atomic
def _place(todo: Sequence[Placement], now: datetime) -> None:
    waiting = Replica.objects.select_for_update().filter(
        pk__in=[one.replica_id for one in todo], host=None, phase=ReplicaPhase.PENDING
    )
    rows = {row.pk: row for row in waiting.only("id", "host_id", "master_port")}
    # In the order of the plan: a later one was planned on what an earlier one left.
    wishes = [wish for one in todo if one.replica_id in rows for wish in _wishes(one)]
    if not wishes:
        return
    refused = bookings.book_all(wishes)
    granted = [one for one in todo if one.replica_id in rows.keys() - refused.keys()]
    moved = [(rows[one.replica_id], one.placed) for one in granted]
    seat([(replica, placed) for replica, placed in moved if placed.others], now)
    _move(moved)
    _tell(granted, now)
    if refused:
        doorbell.ring(doorbell.CONTROLLER)


def _wishes(one: Placement) -> list[Wish]:
    return [
        Wish(
            replica_id=one.replica_id,
            host_id=place.host_id,
            gpu_uuids=place.gpu_uuids,
            memory_bytes=place.memory_bytes,
            whole=place.whole,
        )
        for place in one.placed.places
    ]


def _move(granted: Sequence[tuple[Replica, Placed]]) -> None:
    for replica, placed in granted:
        replica.host_id, replica.gpu_uuids = placed.host_id, list(placed.gpu_uuids)
        replica.memory_bytes, replica.reason = placed.memory_bytes, ""
        replica.retry_at = None
    rows = [replica for replica, _ in granted]
    Replica.objects.bulk_update(rows, ["host", "gpu_uuids", "memory_bytes", "reason", "retry_at"])
    fleet_actions.bump_revisions({p.host_id for _, placed in granted for p in placed.places})


def _tell(granted: Sequence[Placement], now: datetime) -> None:
    """Write why the replicas are where they are, as decisions and as events."""
    Decision.objects.bulk_create(
        Decision(
            deployment_id=one.deployment.deployment_id,
            created_at=now,
            kind="placement",
            reason=one.placed.why,
            inputs=_inputs(one),
        )
        for one in granted
    )
    observed.record_events([_event(one, now) for one in granted])
    for name in {one.deployment.name for one in granted}:
        live.publish(live.deployment_group(name), "replica", deployment=name)


def _event(one: Placement, now: datetime) -> Event:
    names = ", ".join(place.host_name for place in one.placed.places)
    where = f"is placed on {names}: {one.placed.why}"
    return Event(
        at=now,
        kind="replica.placed",
        message=f"Replica {str(one.replica_id)[:8]} {where}",
        actor=observed.RECONCILER,
        deployment=one.deployment.name,
        replica=one.replica_id,
    )


def _inputs(one: Placement) -> dict[str, Any]:
    """Return what the placement was made from; of many hosts the best, and why not the others."""
    placed = one.placed
    return {
        "replica": str(one.replica_id),
        "host": placed.host_name,
        "gpu_uuids": list(placed.gpu_uuids),
        "memory_bytes": placed.memory_bytes,
        "whole": placed.whole,
        **({"members": _members(placed)} if placed.others else {}),
        "candidates": [_shown(candidate) for candidate in placed.candidates],
        "fitted": placed.fitted,
        **shown_refusals(placed),
    }


def _members(placed: Placed) -> list[dict[str, Any]]:
    return [
        {"rank": rank, "host": place.host_name, "gpu_uuids": list(place.gpu_uuids)}
        for rank, place in enumerate(placed.places)
    ]


def _shown(candidate: Candidate) -> dict[str, Any]:
    terms = {name: round(value, 3) for name, value in candidate.terms.items()}
    return {"host": candidate.host, "score": round(candidate.score, 3), "terms": terms}
