"""The autoscaler's rows: policies in, decisions, memories and records out. Called by `scaler`."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import F, OuterRef, Subquery

from apps.deployments import observed
from apps.deployments.models import (
    Decision,
    Deployment,
    Revision,
    ScalerState,
    ScalingPolicy,
    ScalingRecord,
)
from apps.deployments.reconcile.scaling import values
from apps.deployments.reconcile.scaling.values import Observations, Policy, State, Window
from apps.deployments.reconcile.unreadable import UNREADABLE
from apps.deployments.states import ScalingProfile, ScalingRule
from apps.lib import doorbell, live

logger = logging.getLogger(__name__)

ACTOR = "autoscaler"
KIND = "scaling"
RECORDS_KEPT = timedelta(days=3)
DECISIONS_KEPT = timedelta(days=30)
LONGEST_RECORD_TICKS = 60


@dataclass(slots=True, eq=False)
class Track:
    """What one autoscaler holds of one deployment between two ticks."""

    id: UUID
    name: str
    policy: Policy
    state: State | None
    version: int
    """Of the row `ScalerState`; -1 while there is none."""
    is_lost: bool = False
    """Another autoscaler writes it."""
    start_seconds: float | None = None
    began: State | None = None
    """Before the first of `ticks`."""
    ticks: list[tuple[float, int, Observations]] = field(default_factory=list)
    has_news: bool = False
    """Something happened in `ticks`."""
    full: list[ScalingRecord] = field(default_factory=list)


def resumed(rows: Sequence[Deployment]) -> dict[UUID, Track]:
    """Return the tracks of deployments as they were last written. No query for no rows."""
    stored = ScalerState.objects.in_bulk([row.pk for row in rows]) if rows else {}
    return {row.pk: _resumed(row, stored.get(row.pk)) for row in rows}


def _resumed(row: Deployment, scaler: ScalerState | None) -> Track:
    return Track(
        id=row.pk,
        name=row.name,
        policy=policy_of(row.scaling, 0),
        state=_remembered(row, scaler),
        version=-1 if scaler is None else scaler.version,
    )


def _remembered(row: Deployment, scaler: ScalerState | None) -> State | None:
    """Return the state that was written last; one that cannot be read is as after a restart."""
    if scaler is None or not scaler.memory:
        return None
    try:
        return msgspec.convert(scaler.memory, State)
    except UNREADABLE as error:
        logger.error("autoscaler: the memory of %s begins anew: %s", row.name, error)
        return None


def policy_of(row: ScalingPolicy, gpus_per_replica: int) -> Policy:
    """Return a stored policy as the pure rules read it."""
    return Policy(
        min_replicas=row.min_replicas,
        max_replicas=row.max_replicas,
        target_concurrency=row.target_concurrency,
        rule=ScalingRule(row.rule),
        profile=ScalingProfile(row.profile),
        hold_seconds=float(row.hold_seconds),
        scale_to_zero_after_seconds=float(row.scale_to_zero_after_seconds),
        schedule=tuple(msgspec.convert(window, Window) for window in row.schedule),
        gpu_budget=row.gpu_budget,
        gpus_per_replica=gpus_per_replica,
        ttft_target_seconds=row.ttft_target_seconds,
    )


def gpus_per_replica(rows: Sequence[Deployment]) -> dict[UUID, int]:
    """Return the GPUs that a replica takes, where a budget asks. No query where none does."""
    asked = [row.pk for row in rows if row.scaling.gpu_budget is not None]
    if not asked:
        return {}
    same = Revision.objects.filter(deployment=OuterRef("deployment")).order_by("-number")
    newest = Revision.objects.filter(deployment__in=asked, pk=Subquery(same.values("pk")[:1]))
    found = newest.values_list("deployment_id", "need__gpus")
    return {key: int(gpus or 0) for key, gpus in found}


def note(track: Track, seen: Observations, decision: values.Decision) -> None:
    """Add a tick to the record."""
    if not track.ticks:
        track.began = track.state
        track.has_news = False
    track.ticks.append((seen.at, decision.wanted, seen))
    traffic = seen.in_flight or seen.queued or seen.admitted
    if traffic or seen.starting or seen.stuck or seen.unplaced or decision.changed:
        track.has_news = True
    if len(track.ticks) >= LONGEST_RECORD_TICKS:
        close_record(track)


def close_record(track: Track) -> None:
    """End the record under way; one in which nothing happened is not kept."""
    if track.ticks and track.has_news:
        track.full.append(
            ScalingRecord(
                deployment_id=track.id,
                start_at=datetime.fromtimestamp(track.ticks[0][0], UTC),
                policy=msgspec.to_builtins(track.policy),
                state=msgspec.to_builtins(track.began) if track.began is not None else {},
                ticks=[[at, wanted, msgspec.to_builtins(seen)] for at, wanted, seen in track.ticks],
            )
        )
    track.ticks = []


def inputs_of(
    policy: Policy, before: State | None, seen: Observations, decision: values.Decision
) -> dict[str, Any]:
    """Return what a decision's row keeps: all that `decide` was given, and its terms."""
    return {
        "was": before.wanted if before is not None else None,
        "wanted": decision.wanted,
        "terms": {name: round(float(value), 3) for name, value in decision.terms.items()},
        "policy": msgspec.to_builtins(policy),
        "state": msgspec.to_builtins(before) if before is not None else None,
        "observations": msgspec.to_builtins(seen),
        "now": seen.at,
    }


def decided_again(inputs: dict[str, Any]) -> tuple[Policy, State | None, Observations, float]:
    """Return the arguments of `decide` that a decision's `inputs` hold."""
    state = inputs["state"]
    return (
        msgspec.convert(inputs["policy"], Policy),
        None if not state else msgspec.convert(state, State),
        msgspec.convert(inputs["observations"], Observations),
        float(inputs["now"]),
    )


def record(
    track: Track,
    before: State | None,
    seen: Observations,
    decision: values.Decision,
    now: datetime,
    *,
    is_news: bool,
) -> bool:
    """Write what is wanted now and, if it is news, why. False if another autoscaler wrote first."""
    with transaction.atomic():
        if not _write_state(track, decision, now):
            return False
        if is_news:
            Decision.objects.create(
                deployment_id=track.id,
                created_at=now,
                kind=KIND,
                reason=_sentence(before, decision),
                inputs=inputs_of(track.policy, before, seen, decision),
            )
            _tell(track, before, seen, decision, now)
    return True


def _write_state(track: Track, decision: values.Decision, now: datetime) -> bool:
    columns: dict[str, Any] = {
        "wanted_replicas": decision.wanted,
        "reason": decision.reason,
        "at_zero": decision.at_zero,
        "memory": msgspec.to_builtins(decision.state),
        "start_seconds": track.start_seconds,
        "updated_at": now,
    }
    rows = ScalerState.objects.filter(pk=track.id)
    if track.version < 0:
        _, made = ScalerState.objects.get_or_create(
            deployment_id=track.id, defaults={**columns, "version": 0}
        )
        track.version = 0
        return made
    written = rows.filter(version=track.version).update(**columns, version=F("version") + 1)
    track.version += 1
    return bool(written)


def _sentence(before: State | None, decision: values.Decision) -> str:
    was = decision.wanted if before is None else before.wanted
    if was == decision.wanted:
        return f"stays at {was}: {decision.reason}"
    return f"{was} → {decision.wanted} replicas: {decision.reason}"


def _tell(
    track: Track, before: State | None, seen: Observations, decision: values.Decision, now: datetime
) -> None:
    observed.record_event(
        at=now,
        kind="deployment.scaled" if decision.changed else "deployment.scaling",
        message=f"{track.name}: {_sentence(before, decision)}",
        actor=ACTOR,
        deployment=track.name,
        severity="info" if seen.fresh else "warning",
    )
    doorbell.ring(doorbell.CONTROLLER, doorbell.TABLE)
    live.publish(live.FLEET, "deployment", deployment=track.name)
    live.publish(live.deployment_group(track.name), "decision", deployment=track.name)


def keep(tracks: Iterable[Track], now: datetime) -> None:
    """Write the records that are due and the memories that moved; delete what is old."""
    records: list[ScalingRecord] = []
    moved: list[Track] = []
    for track in tracks:
        if track.ticks and track.has_news:
            moved.append(track)
        close_record(track)
        records += track.full
        track.full = []
    ScalingRecord.objects.bulk_create(records, batch_size=200)
    for track in moved:
        if track.state is not None and track.version >= 0:
            ScalerState.objects.filter(pk=track.id, version=track.version).update(
                memory=msgspec.to_builtins(track.state),
                start_seconds=track.start_seconds,
                updated_at=now,
            )
    ScalingRecord.objects.filter(start_at__lt=now - RECORDS_KEPT).delete()
    Decision.objects.filter(kind=KIND, created_at__lt=now - DECISIONS_KEPT).delete()
