"""Periodic work on the time series; the schedule is in `controlplane.celery`."""

from celery import shared_task

from apps.lib import clock
from apps.telemetry import actions, live


@shared_task(name="telemetry.flush")  # type: ignore[untyped-decorator]  # celery ships no types
def flush(**_kwargs: object) -> None:
    """Write fine buckets and merge complete ones."""
    now = clock.now()
    actions.flush(now)
    actions.roll_up(now)


@shared_task(name="telemetry.forget")  # type: ignore[untyped-decorator]  # celery ships no types
def forget(**_kwargs: object) -> None:
    """Delete what is past its time."""
    now = clock.now()
    live.forget_silent(now)
    actions.forget(now)
