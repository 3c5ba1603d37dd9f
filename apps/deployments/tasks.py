"""Periodic work on deployments' history; the schedule is in `controlplane.celery`."""

from celery import shared_task

from apps.deployments import retention
from apps.lib import clock


@shared_task(name="deployments.forget")  # type: ignore[untyped-decorator]  # celery ships no types
def forget(**_kwargs: object) -> None:
    """Delete what is past its time."""
    retention.forget(clock.now())
