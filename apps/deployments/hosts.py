"""Orders about a host that leave an event; `apps.fleet` is below this app and cannot write one."""

from datetime import datetime

from django.db import transaction

from apps.deployments import observed
from apps.fleet import actions as fleet_actions
from apps.fleet.models import Host


@transaction.atomic
def declare_lost(host: Host, *, actor: str, now: datetime) -> None:
    """Give up a silent host: its replicas are replaced. Raises Problem 409 `host_not_silent`."""
    move = fleet_actions.declare_lost(host=host, actor=actor, now=now)
    observed.record_event(
        at=now,
        kind=f"host.{move.new}",
        message=move.reason,
        actor=actor,
        severity="warning",
        host=move.host,
    )
