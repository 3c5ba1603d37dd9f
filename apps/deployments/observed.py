"""Write what was observed: phase moves and agents' reports. The only writer of those columns.

A move is one guarded update plus one Event, published after commit. Reports of an older
generation, and moves from a stale copy, change nothing.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import transaction

from agents.wire import ObservedPhase, ReplicaReport
from apps.deployments import bookings, learning, starts
from apps.deployments.models import Event, Replica, Revision
from apps.deployments.states import COMING, LEGAL_MOVES, DesiredReplica, ReplicaPhase, can_move
from apps.fleet.models import Host
from apps.lib import doorbell, live


class IllegalMove(Exception):
    """The table of legal moves has no such edge."""


class StaleReplica(Exception):
    """The replica changed since it was read: read it again."""


RECONCILER = "reconciler"
"""Actor of what the control plane does by itself."""

_LEVELS = {ReplicaPhase.FAILED: "error", ReplicaPhase.LOST: "warning"}


def record_event(
    *,
    at: datetime,
    kind: str,
    message: str,
    actor: str,
    deployment: str = "",
    severity: str = "info",
    **more: Any,  # noqa: ANN401 - replica, host, data: columns of Event
) -> Event:
    """Append an event and tell the open pages."""
    event = Event.objects.create(
        at=at,
        kind=kind,
        message=message,
        actor=actor,
        deployment=deployment,
        severity=severity,
        **more,
    )
    _tell(deployment)
    return event


def record_events(events: Sequence[Event]) -> None:
    """Append many events, in this order, and tell the open pages once a deployment. One query."""
    Event.objects.bulk_create(events)
    for deployment in {event.deployment for event in events}:
        _tell(deployment)


def _tell(deployment: str) -> None:
    live.publish(live.FLEET, "event", deployment=deployment)
    if deployment:
        live.publish(live.deployment_group(deployment), "event", deployment=deployment)


@transaction.atomic
def move_replica(
    replica: Replica, to: ReplicaPhase, *, now: datetime, reason: str, actor: str
) -> None:
    """Move `replica` to `to` along one legal edge.

    Raises IllegalMove if there is no such edge, StaleReplica if the row changed meanwhile.
    """
    old = ReplicaPhase(replica.phase)
    if not can_move(old, to):
        raise IllegalMove(f"replica {replica.pk}: {old} -> {to}")
    seconds = (now - replica.phase_at).total_seconds()
    ready_at = now if to is ReplicaPhase.READY else replica.ready_at
    changed = Replica.objects.filter(pk=replica.pk, version=replica.version).update(
        phase=to, phase_at=now, version=replica.version + 1, reason=reason, ready_at=ready_at
    )
    if not changed:
        raise StaleReplica(f"replica {replica.pk} changed since it was read")
    replica.phase, replica.phase_at, replica.reason, replica.ready_at = to, now, reason, ready_at
    replica.version += 1
    if to is ReplicaPhase.STOPPED:
        bookings.release(replica)
    elif to is ReplicaPhase.ASLEEP and replica.nap:
        devices = max(1, len(replica.gpu_uuids))
        bookings.keep_residual(replica, memory_bytes=replica.nap["residual_bytes"] // devices)
    record_event(
        at=now,
        kind=f"replica.{to}",
        message=_sentence(replica, to, reason),
        actor=actor,
        deployment=replica.deployment.name,
        severity=_LEVELS.get(to, "info"),
        replica=replica.pk,
        host=replica.host.name if replica.host else "",
        data={"from": old, "to": to, "seconds": round(seconds, 3)},
    )
    doorbell.ring(doorbell.CONTROLLER, doorbell.TABLE)


def _sentence(replica: Replica, to: ReplicaPhase, reason: str) -> str:
    where = f" on {replica.host.name}" if replica.host else ""
    return f"Replica {str(replica.pk)[:8]}{where} is {to}" + (f": {reason}" if reason else "")


CANNOT_SLEEP = "cannot_sleep"
"""Code of a replica whose engine slept and gave nothing back."""

_NEVER_THROUGH = frozenset({ReplicaPhase.LOST, ReplicaPhase.ASLEEP, ReplicaPhase.STOPPED})


def path(old: ReplicaPhase, new: ReplicaPhase) -> list[ReplicaPhase]:
    """Return the shortest legal way from `old` to `new`, without `old`; empty if there is none.

    Reports may skip phases (a fast start, a lost report). Phases that only an order or a verdict
    of the control plane brings about are never passed through.
    """
    came_from: dict[ReplicaPhase, ReplicaPhase] = {}
    queue = deque([old])
    while queue:
        here = queue.popleft()
        for step in sorted(LEGAL_MOVES[here]):
            if step in came_from or step == old or (step in _NEVER_THROUGH and step != new):
                continue
            came_from[step] = here
            queue.append(step)
    if new not in came_from:
        return []
    way = [new]
    while came_from[way[0]] != old:
        way.insert(0, came_from[way[0]])
    return way


def record_reports(host: Host, reports: Iterable[ReplicaReport], now: datetime) -> int:
    """Write what `host` says of its replicas; return how many rows changed.

    Only rows of this host count. Each replica is its own transaction: a bad one spoils no other.
    """
    wanted = by_replica(reports)
    rows = (
        Replica.objects.filter(host=host, pk__in=wanted)
        .select_related("deployment", "host", "revision")
        .defer("revision__spec", "revision__settings")
    )
    return sum(_record(row, wanted[row.pk], now) for row in rows)


def by_replica(reports: Iterable[ReplicaReport]) -> dict[UUID, ReplicaReport]:
    """Return the reports by replica, without those that name none."""
    found = {}
    for report in reports:
        with contextlib.suppress(ValueError):
            found[UUID(report.replica_id)] = report
    return found


_PHASES = {
    ObservedPhase.FETCHING: ReplicaPhase.FETCHING,
    ObservedPhase.STARTING: ReplicaPhase.STARTING,
    ObservedPhase.READY: ReplicaPhase.READY,
    ObservedPhase.ASLEEP: ReplicaPhase.ASLEEP,
    ObservedPhase.STOPPED: ReplicaPhase.STOPPED,
    ObservedPhase.FAILED: ReplicaPhase.FAILED,
}


def _record(replica: Replica, report: ReplicaReport, now: datetime) -> bool:
    if report.generation < replica.generation and report.phase is not ObservedPhase.STOPPED:
        return False
    if replica.phase == ReplicaPhase.STOPPED or _stopped_too_early(replica, report):
        return False
    try:
        with transaction.atomic():
            known = replica.engine_memory
            changed = _write_details(replica, report)
            _learn_of_sleep(replica, report)
            changed = _follow(replica, report, now) or changed
            if replica.engine_memory != known:
                _learn(replica, now)
            return changed
    except StaleReplica:
        return False


def _learn(replica: Replica, now: datetime) -> None:
    """Keep what its engine said of its memory; tell what the estimate had wrong."""
    wrong = learning.learn(replica, now)
    if not wrong:
        return
    parts = ", ".join(f"{c.part.removesuffix('_bytes')} by {abs(c.error_ratio):.0%}" for c in wrong)
    record_event(
        at=now,
        kind="fit.wrong",
        message=f"The estimate for {replica.deployment.name} was wrong: {parts}; "
        "the next one goes by what the engine said",
        actor="learning",
        deployment=replica.deployment.name,
        severity="warning",
        replica=replica.pk,
        host=replica.host.name if replica.host else "",
        data={c.part: {"predicted": c.predicted, "measured": c.measured} for c in wrong},
    )


def _stopped_too_early(replica: Replica, report: ReplicaReport) -> bool:
    """Return whether `stopped` answers an order that is no longer the newest."""
    return report.phase is ObservedPhase.STOPPED and replica.desired != DesiredReplica.ABSENT


def _write_details(replica: Replica, report: ReplicaReport) -> bool:
    up = report.phase in (ObservedPhase.READY, ObservedPhase.ASLEEP)
    coming = report.phase in (ObservedPhase.FETCHING, ObservedPhase.STARTING)
    details: dict[str, Any] = {
        "observed_generation": report.generation,
        "code": report.code,
        "exit_code": report.exit_code,
        "stage_seconds": dict(report.stage_seconds),
        "nap": msgspec.to_builtins(report.nap) if report.nap else replica.nap,
        "progress": msgspec.to_builtins(report.progress) if coming and report.progress else None,
        "endpoint": msgspec.to_builtins(report.endpoint) if up and report.endpoint else None,
        "runtime": report.runtime or replica.runtime,
        "runtime_ref": report.runtime_ref[:80],
        "engine_version": report.engine_version[:40] or replica.engine_version,
        "restarts": report.restarts,
    }
    if report.kv_cache_tokens is not None:
        details["kv_cache_tokens"] = report.kv_cache_tokens
    if report.answers is not None:
        details["answers"] = msgspec.to_builtins(report.answers)
    if memory := learning.measured_parts(replica, report):
        details["engine_memory"] = memory
    if report.log_tail:
        details["log_tail"] = list(report.log_tail[-50:])
    fresh = {name: value for name, value in details.items() if getattr(replica, name) != value}
    if not fresh:
        return False
    Replica.objects.filter(pk=replica.pk).update(**fresh)
    for name, value in fresh.items():
        setattr(replica, name, value)
    name = replica.deployment.name
    live.publish(live.deployment_group(name), "replica", deployment=name)
    return True


def _learn_of_sleep(replica: Replica, report: ReplicaReport) -> None:
    """Remember of the revision that its engine sleeps without giving anything back."""
    if report.code == CANNOT_SLEEP and replica.revision.sleep_fault != report.reason:
        Revision.objects.filter(pk=replica.revision_id).update(sleep_fault=report.reason)
        doorbell.ring(doorbell.CONTROLLER)


def _follow(replica: Replica, report: ReplicaReport, now: datetime) -> bool:
    """Move `replica` to the reported phase, by way of the phases that were not reported."""
    old, new = ReplicaPhase(replica.phase), _PHASES.get(report.phase)
    if new is None or new == old:
        return False
    if old is ReplicaPhase.DRAINING and new is ReplicaPhase.READY:
        return False  # it serves what it holds: draining is the control plane's word
    if replica.is_group and (new is ReplicaPhase.STOPPED or old is ReplicaPhase.FAILED):
        return False  # of several hosts this is only the head's: the planner looks at all of them
    actor = f"agent:{replica.host.name}" if replica.host else "agent"
    _keep_start(replica, report, now)
    way = path(old, new)
    for step in way:
        reason = report.reason if step is new else ""
        move_replica(replica, step, now=now, reason=reason, actor=actor)
    if way and new is ReplicaPhase.FAILED:
        Replica.objects.filter(pk=replica.pk).update(failures=replica.failures + 1, retry_at=None)
    return bool(way)


_ARRIVED = frozenset({ObservedPhase.READY, ObservedPhase.ASLEEP})


def _keep_start(replica: Replica, report: ReplicaReport, now: datetime) -> None:
    """Record the start that this report ends: it came up, or failed on the way."""
    before = ReplicaPhase(replica.phase)
    on_the_way = before in COMING or before is ReplicaPhase.ASLEEP
    if report.phase in _ARRIVED and on_the_way:
        starts.record(replica, report, now, failed=False)
    elif report.phase is ObservedPhase.FAILED and on_the_way:
        starts.record(replica, report, now, failed=True)
