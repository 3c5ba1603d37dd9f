"""Read the rows of every deployment into snapshots. Reads only; called by `loop` once a pass.

A fixed number of queries however many deployments there are, one while there is none.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from apps.deployments import members, rollout_policy
from apps.deployments.models import Deployment, Member, Replica, Revision, Rollout
from apps.deployments.orders import DRAIN_SECONDS
from apps.deployments.queries import wanted_replicas
from apps.deployments.reconcile import rungs
from apps.deployments.reconcile.fleet import Fleet
from apps.deployments.reconcile.rungs import Rungs
from apps.deployments.reconcile.snapshot import (
    Constraints,
    SeenHost,
    SeenMember,
    SeenReplica,
    SeenRollout,
    Snapshot,
    Toleration,
    WantedRevision,
)
from apps.deployments.reconcile.unreadable import UNREADABLE, reason_of
from apps.deployments.states import (
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
    RolloutStage,
    RolloutState,
)
from apps.deployments.verdict import Tally
from apps.fleet.states import HostState
from apps.lib import clock
from apps.telemetry import live as telemetry

_NOT_READ = (
    "log_tail",
    "stage_seconds",
    "progress",
    "endpoint",
    "answers",
    "engine_memory",
)
"""Large columns of a replica: decoding them was a third of a pass."""


def load(
    only: Collection[UUID] | None = None,
    hosts: Callable[[], tuple[SeenHost, ...]] | None = None,
    *,
    now: datetime | None = None,
    unreadable: dict[UUID, str] | None = None,
) -> list[Snapshot]:
    """Return a snapshot of every deployment, or of `only` those, as of `now`.

    `hosts` gives the hosts where the caller has read them already. Deployments that cannot be read
    are left out and stand in `unreadable` with the reason; without it they raise `UNREADABLE`.
    """
    deployments = (
        Deployment.objects.select_related("scaling", "scaler")
        .defer("scaler__memory")
        .order_by("created_at", "id")
    )
    replicas = (
        Replica.objects.exclude(phase=ReplicaPhase.STOPPED)
        .defer(*_NOT_READ)
        .order_by("created_at", "id")
    )
    if only is not None:
        deployments = deployments.filter(pk__in=only)
        replicas = replicas.filter(deployment__in=only)
    rows = list(deployments)
    if not rows:
        return []
    grouped: dict[UUID, list[Replica]] = defaultdict(list)
    for replica in replicas:
        grouped[replica.deployment_id].append(replica)
    everything = [replica for group in grouped.values() for replica in group]
    lasting, numbers = _live_revisions(rows)
    around = _Around(
        hosts=Fleet().hosts() if hosts is None else hosts(),
        numbers=numbers,
        in_flight=_in_flight(grouped),
        members=members.of(everything),
        rungs=rungs.read(now or clock.now(), lasting),
        rollouts=_open_rollouts(rows),
    )
    found = []
    for row in rows:
        try:
            found.append(_snapshot(row, lasting[row.pk], grouped.get(row.pk, []), around))
        except UNREADABLE as error:
            if unreadable is None:
                raise
            unreadable[row.pk] = reason_of(error)
    return found


@dataclass(frozen=True, kw_only=True)
class _Around:
    """What all deployments share."""

    hosts: tuple[SeenHost, ...]
    numbers: Mapping[UUID, int]
    """Of each revision. Rows joined to 1,500 replicas would cost more than all else of a pass."""
    in_flight: Mapping[UUID, int]
    members: Mapping[UUID, Sequence[Member]]
    """Of replicas over several hosts."""
    rungs: Rungs
    rollouts: Mapping[UUID, Rollout]

    @cached_property
    def by_id(self) -> dict[UUID, SeenHost]:
        return {host.id: host for host in self.hosts}


def _live_revisions(
    rows: Iterable[Deployment],
) -> tuple[dict[UUID, Revision], dict[UUID, int]]:
    """Return the live revision of each, the newest where none is set; and every one's number."""
    found: dict[UUID, Revision] = {}
    numbers: dict[UUID, int] = {}
    live = {row.pk: row.live_id for row in rows}
    revisions = Revision.objects.filter(deployment__in=list(live)).order_by("number")
    for revision in revisions.defer("spec", "settings"):
        numbers[revision.pk] = revision.number
        if live[revision.deployment_id] in (None, revision.pk):
            found[revision.deployment_id] = revision
    return found, numbers


def _open_rollouts(rows: Iterable[Deployment]) -> dict[UUID, Rollout]:
    found = Rollout.objects.filter(
        deployment__in=[row.pk for row in rows], state=RolloutState.OPEN
    ).select_related("live", "candidate")
    return {
        rollout.deployment_id: rollout
        for rollout in found.defer(
            "live__spec", "live__settings", "candidate__spec", "candidate__settings"
        )
    }


def _in_flight(grouped: dict[UUID, list[Replica]]) -> dict[UUID, int]:
    """Return what gateways hold per draining replica; empty if no gateway has told lately.

    Nobody is asked while nothing drains. A replica that no gateway counts holds nothing.
    """
    leaving = [r for group in grouped.values() for r in group if r.phase == ReplicaPhase.DRAINING]
    if not leaving:
        return {}
    numbers = telemetry.numbers()
    if numbers.stale or not numbers.gateways:
        return {}
    seen = {key: replica.flow.in_flight for key, replica in numbers.replicas.items()}
    return {r.pk: seen.get(str(r.pk), 0) for r in leaving}


def _snapshot(
    row: Deployment,
    revision: Revision,
    replicas: Iterable[Replica],
    around: _Around,
) -> Snapshot:
    policy, ladder, rollout = row.scaling, around.rungs, around.rollouts.get(row.pk)
    newest = revision if rollout is None else rollout.candidate
    return Snapshot(
        deployment_id=row.pk,
        name=row.name,
        desired=DesiredDeployment(row.desired),
        wanted_replicas=wanted_replicas(row),
        wakes_on_request=row.scaling.max_replicas > 0,
        revision=wanted_revision(newest),
        rollout=None if rollout is None else _seen_rollout(rollout),
        constraints=constraints_of(row.placement),
        replicas=tuple(_seen(replica, around) for replica in replicas),
        hosts=around.hosts,
        drain_seconds=DRAIN_SECONDS,
        asleep_wanted=ladder.asleep_wanted(row),
        keeps_sleepers=policy.asleep_replicas > 0 or policy.shares_pool,
        sleep_fault=newest.sleep_fault,
        used_at=row.used_at,
        rung_seconds=rungs.seconds_of(ladder.seconds, row, newest.variant),
        sleepers=ladder.sleepers_of_others(row),
        generation=row.generation,
        observed_generation=row.observed_generation,
        phase=DeploymentPhase(row.phase),
        reason=row.reason,
    )


def constraints_of(placement: Mapping[str, Any]) -> Constraints:
    """Return an order's `placement` as the planner sees it."""
    return Constraints(
        host=placement.get("host") or "",
        labels=placement.get("labels") or {},
        gpu_kind=placement.get("gpu_kind") or "",
        tolerations=tuple(Toleration(**t) for t in placement.get("tolerations") or ()),
        strategy=placement.get("strategy") or "spread",
    )


def _seen_rollout(row: Rollout) -> SeenRollout:
    evidence = row.evidence
    return SeenRollout(
        id=row.pk,
        live=wanted_revision(row.live),
        policy=rollout_policy.stored(row.policy),
        stage=RolloutStage(row.stage),
        stage_at=row.stage_at,
        progressed_at=row.progressed_at,
        most_ready=row.most_ready,
        paused=row.paused,
        live_served=row.live_served,
        looks=row.looks,
        live_evidence=Tally.read(evidence.get(str(row.live.number), {})),
        candidate_evidence=Tally.read(evidence.get(str(row.candidate.number), {})),
    )


def wanted_revision(revision: Revision) -> WantedRevision:
    """Return what the planner sees of a revision."""
    hosts = int(revision.need.get("hosts", 1))
    gpus = int(revision.need.get("gpus", 0)) // hosts
    total = int(revision.need.get("total_bytes", 0))
    return WantedRevision(
        id=revision.pk,
        number=revision.number,
        device=revision.device,
        gpus=gpus,
        bytes_per_gpu=total if gpus else 0,
        memory_bytes=0 if gpus else total,
        gpu_memory_ratio=float(revision.fit.get("gpu_memory_ratio") or 0),
        shared=bool(revision.fit.get("shared")),
        min_compute_capability=revision.fit.get("min_compute_capability") or "",
        cache_keys=frozenset(filter(None, [revision.fit.get("weights_key")])),
        hosts=hosts,
    )


def _seen(replica: Replica, around: _Around) -> SeenReplica:
    host = None if replica.host_id is None else around.by_id.get(replica.host_id)
    seen = SeenReplica(
        id=replica.pk,
        revision_id=replica.revision_id,
        revision_number=around.numbers[replica.revision_id],
        desired=DesiredReplica(replica.desired),
        phase=ReplicaPhase(replica.phase),
        phase_at=replica.phase_at,
        created_at=replica.created_at,
        ready_at=replica.ready_at,
        host_id=replica.host_id,
        host_state=_host_state(replica, host),
        host_cordoned=host is not None and host.cordoned,
        drain_until=replica.drain_until,
        retry_at=replica.retry_at,
        failures=replica.failures,
        reason=replica.reason,
        in_flight=around.in_flight.get(replica.pk),
        code=replica.code,
        can_wake=around.rungs.can_wake(replica, host),
        missing_gpus=() if host is None else host.missing(replica.gpu_uuids),
    )
    return _as_group(seen, replica, around) if replica.is_group else seen


def _as_group(seen: SeenReplica, replica: Replica, around: _Around) -> SeenReplica:
    """Return a replica over several hosts with what is true of any of them."""
    placed = [(part, around.by_id.get(part.host_id)) for part in around.members[replica.pk]]
    hosts = [(part, host) for part, host in placed if host is not None]
    return replace(
        seen,
        is_group=True,
        released=replica.memory_bytes == 0,
        host_cordoned=any(host.cordoned for _, host in hosts),
        missing_gpus=tuple(uuid for part, host in hosts for uuid in host.missing(part.gpu_uuids)),
        members=tuple(_seen_member(part, host) for part, host in placed),
    )


def _seen_member(part: Member, host: SeenHost | None) -> SeenMember:
    return SeenMember(
        rank=part.rank,
        host_id=part.host_id,
        host=part.host.name,
        host_state=HostState.UNKNOWN if host is None else host.state,
        phase=ReplicaPhase(part.phase),
        reason=part.reason,
    )


def _host_state(replica: Replica, host: SeenHost | None) -> HostState | None:
    """Return the state of the host; one that has come since the hosts were read is not known."""
    if replica.host_id is None:
        return None
    return HostState.UNKNOWN if host is None else host.state
