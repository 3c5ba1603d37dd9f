"""Forget what happened so long ago that no bill or chart can ask for it. Called by `tasks`."""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from apps.deployments.models import Decision, Event, Replica
from apps.deployments.states import ReplicaPhase
from apps.telemetry.states import KEEP_SECONDS, Step

KEPT = timedelta(seconds=KEEP_SECONDS[Step.HOUR])
"""As long as the hourly series: over the longest window a bill reads the moves of replicas."""
AT_ONCE = 2000
"""Rows of a kind that one run deletes: SQLite has one writer, and others wait for it."""


def forget(now: datetime) -> int:
    """Delete events, decisions and stopped replicas past their time; return how many."""
    old = now - KEPT
    return (
        _delete_some(Event.objects.filter(at__lt=old).order_by("id"))
        + _delete_some(Decision.objects.filter(created_at__lt=old).order_by("id"))
        + _delete_some(
            Replica.objects.filter(phase=ReplicaPhase.STOPPED, phase_at__lt=old).order_by(
                "phase_at", "id"
            )
        )
    )


def _delete_some(rows: QuerySet[Any]) -> int:
    keys = list(rows.values_list("pk", flat=True)[:AT_ONCE])
    rows.model._default_manager.filter(pk__in=keys).delete()
    return len(keys)
