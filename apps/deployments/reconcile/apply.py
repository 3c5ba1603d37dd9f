"""Write the steps of a plan: rows, events, doorbells. Called by `loop` under a lease.

Every step is guarded: a replica that changed since the snapshot makes its step a no-op, and the
next pass plans anew. No network here.
"""

import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import singledispatchmethod
from uuid import UUID

from django.db import transaction
from django.db.models import F

from apps.deployments import actions, bookings, observed
from apps.deployments.models import Decision, Deployment, Replica
from apps.deployments.reconcile import moves, steps
from apps.deployments.reconcile.snapshot import Snapshot
from apps.deployments.reconcile.summary import summarize
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.lib import doorbell, live

logger = logging.getLogger(__name__)

ACTOR = observed.RECONCILER

_OVERTAKEN = (
    observed.StaleReplica, observed.IllegalMove, Replica.DoesNotExist, bookings.NotBooked
)  # fmt: skip


class Applier:
    """Carries out the steps of one deployment's plan."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self._snapshot = snapshot
        self._now = now

    def apply(self, todo: Sequence[steps.Step]) -> None:
        """Write every step but placements (`placing`); each is its own transaction."""
        for step in todo:
            # What moved since the snapshot is overtaken: the next pass sees how.
            with contextlib.suppress(*_OVERTAKEN), transaction.atomic():
                self._do(step)

    @singledispatchmethod
    def _do(self, step: steps.Step) -> None:
        raise TypeError(f"no way to apply {step!r}")

    @_do.register
    def _create(self, step: steps.CreateReplica) -> None:
        replica = Replica.objects.create(
            deployment_id=self._snapshot.deployment_id,
            revision_id=step.revision_id or self._snapshot.revision.id,
            created_at=self._now,
            phase_at=self._now,
        )
        self._changed()
        doorbell.ring(doorbell.CONTROLLER)
        self._event(replica, "replica.pending", "is wanted")

    @_do.register
    def _wait(self, step: steps.KeepWaiting) -> None:
        replica = self._replica(step.replica_id)
        Replica.objects.filter(pk=replica.pk).update(reason=step.not_placed.why)
        self._changed()
        self._event(replica, "replica.waiting", f"waits: {step.not_placed.why}", "warning")

    @_do.register
    def _drain(self, step: steps.DrainReplica) -> None:
        actions.drain(
            self._replica(step.replica_id),
            now=self._now,
            seconds=(step.until - self._now).total_seconds(),
            why=step.why,
            actor=ACTOR,
        )

    @_do.register
    def _stop(self, step: steps.StopReplica) -> None:
        actions.order_gone(self._replica(step.replica_id), now=self._now, why=step.why, actor=ACTOR)

    @_do.register
    def _schedule(self, step: steps.ScheduleRetry) -> None:
        replica = self._replica(step.replica_id)
        Replica.objects.filter(pk=replica.pk).update(retry_at=step.at)
        seconds = round((step.at - self._now) / timedelta(seconds=1))
        self._event(replica, "replica.backoff", f"is tried again in {seconds} s", "warning")

    @_do.register
    def _retry(self, step: steps.RetryReplica) -> None:
        replica = self._replica(step.replica_id)
        try:
            bookings.book_awake(replica)
        except bookings.NotBooked as taken:  # a sleeper that failed: others use its room now
            actions.order_gone(replica, now=self._now, why=str(taken), actor=ACTOR)
            return
        Replica.objects.filter(pk=replica.pk).update(
            generation=F("generation") + 1, retry_at=None, progress=None, stage_seconds={}
        )
        observed.move_replica(replica, ReplicaPhase.PENDING, now=self._now, reason="", actor=ACTOR)
        if replica.host_id is not None:
            fleet_actions.bump_revision(replica.host_id)

    @_do.register
    def _replace_group(self, step: steps.ReplaceGroup) -> None:
        replica = self._replica(step.replica_id)
        if replica.desired != DesiredReplica.RUNNING:
            return
        if replica.phase != ReplicaPhase.FAILED:
            failed = ReplicaPhase.FAILED
            observed.move_replica(replica, failed, now=self._now, reason=step.why, actor=ACTOR)
        actions.order_gone(replica, now=self._now, why=step.why, actor=ACTOR)
        # What it failed of is shown on the one that takes its place.
        cause = (
            replica.members.filter(phase=ReplicaPhase.FAILED).order_by("rank").first() or replica
        )
        successor = Replica.objects.create(
            deployment_id=self._snapshot.deployment_id,
            revision_id=replica.revision_id,
            created_at=self._now,
            phase_at=self._now,
            failures=step.failures,
            retry_at=step.retry_at,
            reason=step.why,
            code=cause.code,
            log_tail=cause.log_tail,
        )
        seconds = round((step.retry_at - self._now).total_seconds()) if step.retry_at else 0
        text = f"takes the place of {str(replica.pk)[:8]} in {seconds} s: {step.why}"
        self._event(successor, "replica.backoff", text, "warning")

    @_do.register
    def _release_group(self, step: steps.ReleaseGroup) -> None:
        replica = self._replica(step.replica_id)
        bookings.release(replica)
        Replica.objects.filter(pk=replica.pk).update(memory_bytes=0)

    @_do.register
    def _bury_group(self, step: steps.BuryGroup) -> None:
        replica = self._replica(step.replica_id)
        for phase in observed.path(ReplicaPhase(replica.phase), ReplicaPhase.STOPPED):
            observed.move_replica(replica, phase, now=self._now, reason="", actor=ACTOR)

    @_do.register
    def _forget(self, step: steps.ForgetFailures) -> None:
        Replica.objects.filter(pk=step.replica_id).update(failures=0)

    @_do.register
    def _lose(self, step: steps.MarkLost) -> None:
        observed.move_replica(
            self._replica(step.replica_id),
            ReplicaPhase.LOST,
            now=self._now,
            reason="its host has been silent for five minutes",
            actor=ACTOR,
        )

    @_do.register(steps.NoteProgress)
    @_do.register(steps.NoteVerdict)
    @_do.register(steps.AdvanceRollout)
    @_do.register(steps.PauseRollout)
    @_do.register(steps.FinishRollout)
    @_do.register(steps.RollBack)
    def _move(self, step: steps.RolloutStep) -> None:
        moves.carry_out(step, self._snapshot, self._now)

    @_do.register
    def _create_sleeper(self, _step: steps.CreateSleeper) -> None:
        replica = Replica.objects.create(
            deployment_id=self._snapshot.deployment_id,
            revision_id=self._snapshot.revision.id,
            desired=DesiredReplica.ASLEEP,
            created_at=self._now,
            phase_at=self._now,
        )
        self._changed()
        doorbell.ring(doorbell.CONTROLLER)
        self._event(replica, "replica.pending", "is wanted, to sleep until it is needed")

    @_do.register
    def _rest(self, step: steps.RestReplica) -> None:
        replica = self._replica(step.replica_id)
        Replica.objects.filter(pk=replica.pk).update(
            desired=DesiredReplica.ASLEEP, drain_until=step.until
        )
        why = f"{step.why}; it is put to sleep"
        observed.move_replica(
            replica, ReplicaPhase.DRAINING, now=self._now, reason=why, actor=ACTOR
        )

    @_do.register
    def _lay_down(self, step: steps.LayDown) -> None:
        replica = self._replica(step.replica_id)
        Replica.objects.filter(pk=replica.pk).update(drain_until=None)
        self._order(replica)

    @_do.register
    def _wake(self, step: steps.WakeReplica) -> None:
        replica = self._replica(step.replica_id)
        bookings.book_awake(replica)
        Replica.objects.filter(pk=replica.pk).update(
            desired=DesiredReplica.RUNNING, drain_until=None
        )
        if replica.phase == ReplicaPhase.DRAINING:
            observed.move_replica(
                replica, ReplicaPhase.READY, now=self._now, reason="", actor=ACTOR
            )
        Decision.objects.create(
            deployment_id=self._snapshot.deployment_id,
            created_at=self._now,
            kind="ladder",
            reason=step.why,
            inputs={
                "replica": str(replica.pk),
                "from": replica.phase,
                "seconds": step.seconds,
                "rung_seconds": dict(self._snapshot.rung_seconds),
            },
        )
        self._order(replica)
        self._changed()
        self._event(replica, "replica.wakes", f"is raised: {step.why}")

    @_do.register
    def _evict(self, step: steps.EvictSleeper) -> None:
        replica = self._replica(step.replica_id)
        if replica.desired != DesiredReplica.ASLEEP:
            return
        Deployment.objects.filter(pk=replica.deployment_id).update(evicted_at=self._now)
        actions.order_gone(replica, now=self._now, why=step.why, actor=ACTOR)
        observed.record_event(
            at=self._now,
            kind="replica.evicted",
            message=f"Sleeper {str(replica.pk)[:8]} makes room: {step.why}",
            actor=ACTOR,
            deployment=replica.deployment.name,
            severity="warning",
            replica=replica.pk,
        )

    @_do.register
    def _note_use(self, _step: steps.NoteUse) -> None:
        Deployment.objects.filter(pk=self._snapshot.deployment_id).update(used_at=self._now)

    @_do.register
    def _remove(self, _step: steps.RemoveDeployment) -> None:
        Deployment.objects.filter(pk=self._snapshot.deployment_id).delete()
        observed.record_event(
            at=self._now,
            kind="deployment.removed",
            message=f"{self._snapshot.name} is gone; nothing of it runs any more",
            actor=ACTOR,
            deployment=self._snapshot.name,
        )
        live.publish(live.FLEET, "deployment", deployment=self._snapshot.name)
        doorbell.ring(doorbell.TABLE)

    def _order(self, replica: Replica) -> None:
        if replica.host_id is not None:
            fleet_actions.bump_revision(replica.host_id)

    def _replica(self, replica_id: UUID) -> Replica:
        return Replica.objects.select_related("deployment", "host").get(pk=replica_id)

    def _event(self, replica: Replica, kind: str, text: str, severity: str = "info") -> None:
        observed.record_event(
            at=self._now,
            kind=kind,
            message=f"Replica {str(replica.pk)[:8]} {text}",
            actor=ACTOR,
            deployment=self._snapshot.name,
            severity=severity,
            replica=replica.pk,
        )

    def _changed(self) -> None:
        name = self._snapshot.name
        live.publish(live.deployment_group(name), "replica", deployment=name)


def write_summary(snapshot: Snapshot, now: datetime) -> None:
    """Write the deployment's phase and reason as they follow from `snapshot`, and tell the pages.

    `observed_generation` follows: every order up to the snapshot's generation has been planned.
    """
    phase, reason = summarize(snapshot)
    rows = Deployment.objects.filter(pk=snapshot.deployment_id)
    changed = rows.exclude(phase=phase, reason=reason).update(
        phase=phase, reason=reason, changed_at=now
    )
    if snapshot.observed_generation < snapshot.generation:
        rows.filter(observed_generation__lt=snapshot.generation).update(
            observed_generation=snapshot.generation
        )
    if changed:
        live.publish(live.FLEET, "deployment", deployment=snapshot.name)
        live.publish(live.deployment_group(snapshot.name), "deployment", deployment=snapshot.name)


def write_unreadable(deployment_id: UUID, reason: str, now: datetime) -> None:
    """Say on the deployment, once, why nothing is done for it; its phase stays what it was."""
    row = Deployment.objects.filter(pk=deployment_id).exclude(reason=reason)
    if row.update(reason=reason, changed_at=now):
        name = Deployment.objects.values_list("name", flat=True).get(pk=deployment_id)
        logger.error("%s: %s", name, reason)
        live.publish(live.FLEET, "deployment", deployment=name)
        live.publish(live.deployment_group(name), "deployment", deployment=name)
