"""Reads of deployments. Nothing here writes or talks to an engine."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import msgspec
from django.db.models import F, Prefetch, QuerySet

from agents.wire import EngineKind, ReadReply
from apps.deployments import starts
from apps.deployments.models import (
    Decision,
    Deployment,
    Event,
    ReadRequest,
    Replica,
    Revision,
    Rollout,
    ScalerState,
    ScalingPolicy,
)
from apps.deployments.states import (
    COMING,
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
    RolloutState,
)
from apps.lib.problems import Problem

_TYPICAL_SECONDS = {
    "image": 90.0,
    "engine": 90.0,
    "weights": 25.0,
    "import": 12.0,
    "load": 3.0,
    "compile": 4.0,
    "graphs": 2.0,
    "warm-up": 3.0,
}
"""Seconds a stage takes until this deployment has measured its own."""


@dataclass(frozen=True, kw_only=True)
class StartProgress:
    """How far the foremost starting replica is."""

    phase: str
    stage: str
    ratio: float | None
    eta_seconds: float | None
    stage_seconds: dict[str, float]
    replica_id: UUID


@dataclass(frozen=True, kw_only=True)
class Status:
    """A deployment in the words of the API."""

    phase: DeploymentPhase
    reason: str
    revision: int
    """Number of the live revision; of the newest one while none serves."""
    newest_revision: int
    ready_replicas: int
    wanted_replicas: int
    progress: StartProgress | None
    simulated: bool
    engine: str
    variant: str
    task: str
    settings: dict[str, Any]


class CurrentReplica(Protocol):
    """A row of `current_replicas()`: the model itself, or the plain row of a long list."""

    pk: UUID
    phase: str
    desired: str
    progress: dict[str, Any] | None
    stage_seconds: dict[str, float]
    revision_number: int
    variant: str
    host_name: str | None


def deployments() -> QuerySet[Deployment]:
    """Return all deployments with everything that `statuses_of` reads, in a few queries."""
    replicas = (
        current_replicas().select_related("host", "revision").defer("log_tail", "revision__spec")
    )
    revisions = Revision.objects.defer("spec").order_by("number")
    return (
        Deployment.objects.select_related("scaling", "scaler")
        .defer("scaler__memory")
        .prefetch_related(
            Prefetch("replicas", replicas, to_attr="current_replicas"),
            Prefetch("revisions", revisions, to_attr="all_revisions"),
            Prefetch("rollouts", open_rollouts(), to_attr="open_rollouts"),
        )
        .order_by("name", "id")
    )


def current_replicas() -> QuerySet[Replica]:
    """Return the replicas that are not gone, with what `statuses_of` reads of their neighbours.

    `revision_number`, `variant` and `host_name` stand beside the row's own columns: a long list
    needs no object for each host and revision.
    """
    return (
        Replica.objects.exclude(phase=ReplicaPhase.STOPPED)
        .annotate(
            revision_number=F("revision__number"),
            variant=F("revision__variant"),
            host_name=F("host__name"),
        )
        .order_by("created_at", "id")
    )


def open_rollouts() -> QuerySet[Rollout]:
    """Return the rollouts under way with the numbers of their revisions."""
    return (
        Rollout.objects.filter(state=RolloutState.OPEN)
        .select_related("live", "candidate")
        .only(
            "deployment_id", "policy", "stage", "stage_at", "paused", "reason", "looks", "verdict",
            "evidence", "created_by", "created_at", "live__number", "candidate__number",
        )
    )  # fmt: skip


def is_there(deployment: Deployment) -> bool:
    """Return False for a row from `deployments()` that was deleted while it was read.

    Its parts come by queries of their own, and every deployment has a revision.
    """
    return bool(deployment.all_revisions)  # type: ignore[attr-defined]


def rollout_of(deployment: Deployment) -> Rollout | None:
    """Return the open rollout of a row from `deployments()`; makes no query."""
    found: Sequence[Rollout] = deployment.open_rollouts  # type: ignore[attr-defined]
    return found[0] if found else None


def target_of(deployment: Deployment) -> Revision:
    """Return the revision that a row from `deployments()` is to run; makes no query.

    The candidate of an open rollout, else the live revision. The newest one may be neither: it may
    have been rolled back.
    """
    revisions: Sequence[Revision] = deployment.all_revisions  # type: ignore[attr-defined]
    rollout = rollout_of(deployment)
    wanted = deployment.live_id if rollout is None else rollout.candidate_id
    return next((one for one in revisions if one.pk == wanted), revisions[-1])


def target_revision(deployment: Deployment) -> Revision:
    """Return the revision that the deployment is to run, complete; two queries at most."""
    rollout = Rollout.objects.filter(deployment=deployment, state=RolloutState.OPEN).first()
    wanted = deployment.live_id if rollout is None else rollout.candidate_id
    if wanted is None:
        return deployment.revisions.latest("number")
    return deployment.revisions.get(pk=wanted)


def get(name: str) -> Deployment:
    """Return the deployment `name`, prefetched. Raises Problem 404 with near names."""
    row = deployments().filter(name=name).first()
    if row is not None and is_there(row):
        return row
    names = list(Deployment.objects.values_list("name", flat=True))
    near = difflib.get_close_matches(name, names, n=3)
    hint = f" Near names: {', '.join(near)}." if near else ""
    raise Problem(404, "not_found", f"There is no deployment called {name}.{hint}")


def statuses_of(rows: Sequence[Deployment]) -> list[Status]:
    """Return the statuses of rows from `deployments()` or `listing.complete`, in their order.

    Makes one query, for the times of earlier starts, if a replica starts; none otherwise.
    """
    coming = [_foremost(_replicas(row)) for row in rows]
    pairs = list(zip(rows, coming, strict=True))
    usual = starts.stage_medians(_start_key(row, one) for row, one in pairs if one is not None)
    return [
        _status(row, None if one is None else _progress(one, usual[_start_key(row, one)]))
        for row, one in pairs
    ]


def _status(deployment: Deployment, progress: StartProgress | None) -> Status:
    revisions: Sequence[Revision] = deployment.all_revisions  # type: ignore[attr-defined]
    target = target_of(deployment)
    ready = [r for r in _replicas(deployment) if r.phase == ReplicaPhase.READY]
    running = deployment.desired == DesiredDeployment.RUNNING
    return Status(
        phase=DeploymentPhase(deployment.phase),
        reason=deployment.reason,
        revision=_live_number(rollout_of(deployment), {r.revision_number for r in ready}, target),
        newest_revision=revisions[-1].number,
        ready_replicas=len(ready),
        wanted_replicas=wanted_replicas(deployment) if running else 0,
        progress=progress,
        simulated=target.engine == EngineKind.SIMULATOR,
        engine=target.engine,
        variant=target.variant,
        task=target.task,
        settings=target.settings,
    )


def wanted_replicas(deployment: Deployment) -> int:
    """Return how many replicas a running deployment should have: the autoscaler's answer.

    People's bounds count at once; the autoscaler follows with its next tick. Before its first,
    one that may be at zero starts with one replica. Reads `scaling` and `scaler`.
    """
    policy = deployment.scaling
    scaler: ScalerState | None = getattr(deployment, "scaler", None)
    if not is_elastic(policy):
        return policy.min_replicas
    wanted = max(1, policy.min_replicas) if scaler is None else scaler.wanted_replicas
    floor = policy.min_replicas
    # A schedule may lift the ceiling for a while: its answer stands.
    ceiling = wanted if policy.schedule else policy.max_replicas
    return min(max(wanted, floor), ceiling)


def is_elastic(policy: ScalingPolicy) -> bool:
    """Return whether there is anything to decide."""
    return policy.min_replicas < policy.max_replicas or bool(policy.schedule)


def _live_number(rollout: Rollout | None, serving: set[int], target: Revision) -> int:
    """Return which revision serves: during a rollout the old one as long as any of it does."""
    if rollout is not None and rollout.live.number in serving:
        return rollout.live.number
    if target.number in serving or not serving:
        return target.number
    return max(serving)


def _replicas(deployment: Deployment) -> Sequence[CurrentReplica]:
    found: Sequence[CurrentReplica] = deployment.current_replicas  # type: ignore[attr-defined]
    return found


def _foremost(replicas: Iterable[CurrentReplica]) -> CurrentReplica | None:
    """Return the starting replica that is furthest; None if none starts."""
    rank = {ReplicaPhase.PENDING: 0, ReplicaPhase.FETCHING: 1, ReplicaPhase.STARTING: 2}
    coming = [r for r in replicas if r.phase in COMING and r.desired == DesiredReplica.RUNNING]
    return max(coming, key=lambda r: rank[ReplicaPhase(r.phase)], default=None)


def _start_key(deployment: Deployment, replica: CurrentReplica) -> starts.StartKey:
    model = starts.model_key(deployment.catalog_slug, replica.variant)
    return model, replica.host_name or "", None


def _progress(foremost: CurrentReplica, usual: Mapping[str, float]) -> StartProgress:
    told = foremost.progress or {}
    stage = str(told.get("stage", ""))
    ratio = told.get("ratio")
    if ratio is None and told.get("total"):
        ratio = min(1.0, told.get("done", 0) / told["total"])
    return StartProgress(
        phase=foremost.phase,
        stage=stage,
        ratio=ratio,
        eta_seconds=_eta_seconds(stage, ratio, told.get("eta_seconds"), usual),
        stage_seconds=foremost.stage_seconds,
        replica_id=foremost.pk,
    )


def _eta_seconds(
    stage: str, ratio: float | None, told: float | None, usual: Mapping[str, float]
) -> float | None:
    """Return an estimate of the seconds to ready: what is left of this stage, and those after.

    By the medians of this model on this host; typical seconds where it was never started.
    """
    if stage not in starts.STAGES:
        return None
    usual = usual or _TYPICAL_SECONDS
    left = told if told is not None else usual.get(stage, 0.0) * (1 - (ratio or 0.0))
    after = starts.STAGES[starts.STAGES.index(stage) + 1 :]
    brings = ("image", "engine", "weights")
    later = [s for s in after if s not in (*brings, "wake")]
    if stage in ("image", "engine"):
        later.append("weights")
    return round(left + sum(usual.get(s, 0.0) for s in later), 1)


def replicas_of(deployment: Deployment, *, stopped: bool = False) -> QuerySet[Replica]:
    """Return the deployment's replicas, newest last; stopped ones too if wanted."""
    rows = Replica.objects.filter(deployment=deployment).select_related("host", "revision")
    if not stopped:
        rows = rows.exclude(phase=ReplicaPhase.STOPPED)
    return rows.order_by("created_at", "id")


@dataclass(frozen=True)
class History:
    """A deployment's revisions and rollouts, for saying what each revision changed."""

    revisions: dict[UUID, Revision]
    rollouts: list[Rollout]

    def before(self, revision: Revision) -> Revision | None:
        """Return what `revision` was ordered in place of; None for the first one."""
        for rollout in self.rollouts:
            if rollout.candidate_id == revision.pk:
                return self.revisions.get(rollout.live_id)
        older = [one for one in self.revisions.values() if one.number < revision.number]
        return max(older, key=lambda one: one.number, default=None)


def history_of(deployment: Deployment) -> History:
    """Return the deployment's history: two queries."""
    revisions = {one.pk: one for one in Revision.objects.filter(deployment=deployment)}
    return History(revisions, list(Rollout.objects.filter(deployment=deployment).order_by("id")))


def rollouts_of(deployment: Deployment) -> QuerySet[Rollout]:
    """Return all rollouts of the deployment with their revisions, newest first."""
    return (
        Rollout.objects.filter(deployment=deployment)
        .select_related("live", "candidate")
        .order_by("-created_at", "id")
    )


def ready_replicas(deployment: Deployment, revision: Revision) -> int:
    """Return how many replicas of `revision` serve."""
    return Replica.objects.filter(
        deployment=deployment,
        revision=revision,
        phase=ReplicaPhase.READY,
        desired=DesiredReplica.RUNNING,
    ).count()


def replica(deployment: Deployment, replica_id: str) -> Replica:
    """Return the replica of that id, or the newest whose id begins so. Raises Problem 404.

    Looks at the ids alone first: a deployment that wakes and sleeps leaves thousands of rows.
    """
    rows = Replica.objects.filter(deployment=deployment)
    ids = rows.order_by("-created_at", "id").values_list("pk", flat=True)
    found = next((one for one in ids if str(one).startswith(replica_id.lower())), None)
    if found is None:
        raise Problem(404, "not_found", f"{deployment.name} has no replica {replica_id}.")
    return rows.select_related("host", "deployment").get(pk=found)


def events(
    *, deployment: str = "", kind: str = "", severity: str = "", host: str = ""
) -> QuerySet[Event]:
    """Return events, newest first."""
    wanted = {"deployment": deployment, "severity": severity, "host": host}
    rows = Event.objects.filter(**{key: value for key, value in wanted.items() if value})
    if kind:
        rows = rows.filter(kind__startswith=kind)
    return rows.order_by("-id")


def decisions(deployment: Deployment) -> QuerySet[Decision]:
    """Return the deployment's decisions, newest first."""
    return Decision.objects.filter(deployment=deployment).order_by("-id")


def answer_of(request_id: UUID) -> ReadReply | None:
    """Return the answer to a read, None while there is none."""
    answer = ReadRequest.objects.filter(pk=request_id).values_list("answer", flat=True).first()
    return None if answer is None else msgspec.convert(answer, ReadReply)
