"""Write what agents say of cache items: the only writer of those columns."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from agents.wire import CacheReport, CacheState
from apps.deployments.observed import record_event
from apps.fleet.models import CacheItem, Host
from apps.lib import live


def record(host: Host, reports: Iterable[CacheReport], now: datetime) -> int:
    """Write what `host` says of its items; return how many rows changed."""
    known = {str(row.pk): row for row in CacheItem.objects.filter(host=host)}
    changed = 0
    for report in reports:
        row = known.get(report.item_id)
        if row is not None and _write(row, report, now):
            changed += 1
            if row.state != report.state:
                _tell(host, row, report, now)
    if changed:
        live.publish(live.FLEET, "pool", host=host.name)
    return changed


def forget(item_id: UUID) -> None:
    """Forget an item; what lies on the host stays there."""
    CacheItem.objects.filter(pk=item_id).delete()


def _write(row: CacheItem, report: CacheReport, now: datetime) -> bool:
    fresh = {
        "state": report.state.value,
        "bytes": report.bytes or row.bytes,
        "seconds": row.seconds if report.seconds is None else report.seconds,
        "origin": report.origin[:120] or row.origin,
        "progress": msgspec.to_builtins(report.progress) if report.progress else None,
        "reason": report.reason,
    }
    if all(getattr(row, name) == value for name, value in fresh.items()):
        return False
    moved = {"state_at": now} if row.state != report.state else {}
    CacheItem.objects.filter(pk=row.pk).update(**fresh, **moved)
    return True


def _tell(host: Host, row: CacheItem, report: CacheReport, now: datetime) -> None:
    if report.state not in (CacheState.PRESENT, CacheState.FAILED):
        return
    failed = report.state is CacheState.FAILED
    what = f"{row.kind} {row.key}"
    message = f"{what} could not be brought to {host.name}: {report.reason}"
    if not failed:
        message = f"{what} lies ready on {host.name}"
    record_event(
        at=now,
        kind=f"cache.{report.state}",
        message=message,
        actor=f"agent:{host.name}",
        severity="warning" if failed else "info",
        host=host.name,
    )
