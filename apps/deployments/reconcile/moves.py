"""Write the moves of a rollout that a plan decided on. Called by `apply` within a transaction."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from apps.deployments import rollouts
from apps.deployments.models import Deployment, Rollout
from apps.deployments.reconcile import steps
from apps.deployments.reconcile.snapshot import SeenRollout, Snapshot
from apps.deployments.states import RolloutState
from apps.deployments.verdict import Verdict

ACTOR = "reconciler"


def carry_out(step: steps.RolloutStep, snapshot: Snapshot, now: datetime) -> None:
    """Write `step`; nothing if the rollout of the snapshot is no longer open, or has moved."""
    seen = snapshot.rollout
    deployment = Deployment.objects.get(pk=snapshot.deployment_id)
    rollout = rollouts.open_of(deployment)
    if seen is None or rollout is None or rollout.pk != seen.id:
        return
    if rollout.stage != seen.stage or rollout.paused != seen.paused:
        return
    if isinstance(step, steps.NoteProgress):
        rollout.most_ready, rollout.progressed_at = step.ready, now
        rollout.save(update_fields=["most_ready", "progressed_at"])
        return
    verdict = None if isinstance(step, steps.FinishRollout) else step.verdict
    if verdict is not None:
        rollouts.note_verdict(rollout, verdict)
    verb, why, severity = _write(step, deployment, rollout, now)
    note = rollouts.Note(
        verb=verb,
        message=f"Revision {rollout.candidate.number} of {deployment.name}: {why}",
        inputs=_inputs(seen, verdict),
        severity=severity,
    )
    rollouts.tell(deployment, note, actor=ACTOR, now=now)


def _write(
    step: steps.RolloutStep, deployment: Deployment, rollout: Rollout, now: datetime
) -> tuple[str, str, str]:
    """Write the row; return verb, reason and severity of the event."""
    match step:
        case steps.AdvanceRollout(stage, why):
            rollouts.advance(rollout, stage, now=now)
            return stage.value, why, "info"
        case steps.PauseRollout(why):
            rollouts.pause(rollout, why)
            return "paused", why, "warning"
        case steps.RollBack(why):
            rollouts.close(deployment, RolloutState.ROLLED_BACK, why, now=now)
            return "rolled_back", f"back to revision {rollout.live.number}: {why}", "warning"
        case steps.FinishRollout():
            rollouts.close(deployment, RolloutState.PROMOTED, "", now=now)
            return "promoted", "it serves everything now", "info"
        case steps.NoteVerdict(verdict):
            return "judged", f"look {verdict.look}: {verdict.says}", "info"
        case _:
            raise TypeError(f"no way to write {step!r}")


def _inputs(seen: SeenRollout, verdict: Verdict | None) -> dict[str, Any]:
    """Return what a move was decided from."""
    inputs: dict[str, Any] = {
        "stage": seen.stage.value,
        "strategy": seen.policy.strategy.value,
        "live_requests": seen.live_evidence.requests,
        "candidate_requests": seen.candidate_evidence.requests,
    }
    if verdict is not None:
        inputs["look"] = verdict.look
        inputs["measures"] = [asdict(measure) for measure in verdict.measures]
    return inputs
