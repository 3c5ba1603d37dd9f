"""Decide when a rollout moves on, ends or goes back. Pure; called by `plan`.

    rolling, recreate   starting ------------------------------------> promoted
    canary              starting (-> shadowing) -> canary -> promoting -> promoted
    blue/green          starting (-> shadowing) -> flipped ------------> promoted

From any stage back when a candidate does not get ready (deadline, failures in a row), from the
canary also on its verdict. A pause, or a person, stops all of it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from apps.deployments.reconcile import rollout as replicas
from apps.deployments.reconcile.snapshot import SeenReplica, SeenRollout, Snapshot
from apps.deployments.reconcile.steps import (
    AdvanceRollout,
    FinishRollout,
    NoteProgress,
    NoteVerdict,
    PauseRollout,
    RollBack,
    RolloutStep,
)
from apps.deployments.states import (
    DesiredDeployment,
    ReplicaPhase,
    RolloutStage,
    RolloutStrategy,
)
from apps.deployments.verdict import Verdict, due_look, judge


def decide(snapshot: Snapshot, kept: Sequence[SeenReplica], now: datetime) -> list[RolloutStep]:
    """Return what becomes of the open rollout now: one step, or none."""
    rollout = snapshot.rollout
    if rollout is None or rollout.paused or snapshot.desired is not DesiredDeployment.RUNNING:
        return []
    if replicas.wanted_of(snapshot) == 0 and not kept:
        return [FinishRollout()]
    candidates = [r for r in kept if r.revision_id == snapshot.revision.id]
    ready = sum(r.phase is ReplicaPhase.READY for r in candidates)
    if ready > rollout.most_ready:
        return [NoteProgress(ready)]
    wanted = replicas.candidates_wanted(snapshot, rollout)
    if rollout.live_served and (why := _why_hopeless(rollout, candidates, ready, wanted, now)):
        return [_give_up(rollout, why)]
    step = _next(snapshot, rollout, kept, ready >= wanted, now)
    return [] if step is None else [step]


def _why_hopeless(
    rollout: SeenRollout,
    candidates: Sequence[SeenReplica],
    ready: int,
    wanted: int,
    now: datetime,
) -> str:
    """Return why the candidates will not get ready; empty while they may."""
    broken = [r for r in candidates if r.failures >= rollout.policy.max_failures]
    if broken:
        worst = max(broken, key=lambda r: r.failures)
        return f"a replica failed {worst.failures} times in a row: {worst.reason}"
    waited = now - rollout.progressed_at
    if ready < wanted and waited >= timedelta(seconds=rollout.policy.ready_seconds):
        reasons = [r.reason for r in candidates if r.reason]
        told = f": {reasons[0]}" if reasons else ""
        return f"no replica got ready for {rollout.policy.ready_seconds} s{told}"
    return ""


def _give_up(rollout: SeenRollout, why: str, verdict: Verdict | None = None) -> RolloutStep:
    if rollout.policy.auto_rollback:
        return RollBack(why, verdict)
    return PauseRollout(why, verdict)


def _next(
    snapshot: Snapshot,
    rollout: SeenRollout,
    kept: Sequence[SeenReplica],
    are_ready: bool,
    now: datetime,
) -> RolloutStep | None:
    policy = rollout.policy
    age = now - rollout.stage_at
    match rollout.stage:
        case RolloutStage.STARTING if policy.strategy in replicas.SIDE_BY_SIDE:
            return _after_start(rollout) if are_ready else None
        case RolloutStage.SHADOWING:
            is_over = age >= timedelta(seconds=policy.shadow_seconds)
            return _serve(rollout) if is_over and are_ready else None
        case RolloutStage.CANARY:
            return _judge(rollout, now)
        case RolloutStage.FLIPPED if replicas.is_side_by_side(rollout, now):
            return None
        case _:
            return _finish(snapshot, kept, are_ready)


def _after_start(rollout: SeenRollout) -> RolloutStep:
    if rollout.policy.shadow_ratio > 0:
        share = f"{rollout.policy.shadow_ratio:.0%} of the requests are copied to it"
        return AdvanceRollout(RolloutStage.SHADOWING, share)
    return _serve(rollout)


def _serve(rollout: SeenRollout) -> RolloutStep:
    policy = rollout.policy
    if policy.strategy is RolloutStrategy.BLUE_GREEN:
        return AdvanceRollout(RolloutStage.FLIPPED, "all requests go to it")
    keys = f" and {len(policy.canary.keys)} keys" if policy.canary.keys else ""
    share = f"{policy.canary.weight_ratio:.0%} of the requests{keys} go to it"
    return AdvanceRollout(RolloutStage.CANARY, share)


def _judge(rollout: SeenRollout, now: datetime) -> RolloutStep | None:
    live, candidate = rollout.live_evidence, rollout.candidate_evidence
    canary = rollout.policy.canary
    look = due_look(live, candidate, rollout.looks, canary)
    if not look:
        return _out_of_time(rollout, now)
    verdict = judge(live, candidate, look, canary)
    if verdict.is_worse:
        return _give_up(rollout, verdict.says, verdict)
    if not verdict.has_passed:
        return NoteVerdict(verdict)
    if not canary.auto_promote:
        return PauseRollout(f"{verdict.says}; promote it by hand", verdict)
    return AdvanceRollout(RolloutStage.PROMOTING, verdict.says, verdict)


def _out_of_time(rollout: SeenRollout, now: datetime) -> RolloutStep | None:
    canary = rollout.policy.canary
    if now - rollout.stage_at < timedelta(seconds=canary.max_seconds):
        return None
    had = min(rollout.live_evidence.requests, rollout.candidate_evidence.requests)
    return PauseRollout(
        f"only {had} of {canary.min_requests} requests to judge by after {canary.max_seconds} s; "
        "promote it or roll it back by hand"
    )


def _finish(snapshot: Snapshot, kept: Sequence[SeenReplica], are_ready: bool) -> RolloutStep | None:
    old = [r for r in kept if r.revision_id != snapshot.revision.id]
    return FinishRollout() if are_ready and not old else None
