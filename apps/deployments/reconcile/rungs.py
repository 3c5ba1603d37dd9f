"""Read what the ladder goes by: measured starts, sleepers, pools. Reads only; called by `load`.

A fixed number of queries, two of them only where somebody wants sleepers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from agents.wire import Rung
from apps.deployments import starts
from apps.deployments.models import Deployment, Replica, Revision, WarmPool
from apps.deployments.queries import wanted_replicas
from apps.deployments.reconcile import sleepers
from apps.deployments.reconcile.sleepers import Held, Member
from apps.deployments.reconcile.snapshot import TYPICAL_SECONDS, SeenHost
from apps.deployments.room import MEMORY, SYSTEM_RESERVE_BYTES, Reserved, reservations
from apps.deployments.states import DesiredDeployment, ReplicaPhase

RESIDUAL_GUESS_RATIO = 0.1
"""Of what a replica holds awake; until its first sleep has been measured."""


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """The ladder's view of all deployments."""

    now: datetime
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model -> rung -> p90 seconds."""
    held: tuple[Held, ...] = ()
    shares: Mapping[UUID, int] = field(default_factory=dict)
    """Deployment -> slots of the shared pool that it holds."""
    reserved: Mapping[UUID, Reserved] = field(default_factory=dict)

    def asleep_wanted(self, row: Deployment) -> int:
        """Return how many sleepers `row` keeps now."""
        policy = row.scaling
        return sleepers.may_sleep(
            wanted=policy.asleep_replicas + self.shares.get(row.pk, 0),
            used_at=row.used_at or row.created_at,
            evicted_at=row.evicted_at,
            ttl_seconds=policy.asleep_ttl_seconds,
            now=self.now,
        )

    def sleepers_of_others(self, row: Deployment) -> tuple[Held, ...]:
        return tuple(held for held in self.held if held.deployment != row.name)

    def can_wake(self, replica: Replica, host: SeenHost | None) -> bool:
        """Return whether the devices of a sleeper have room for it awake."""
        if replica.phase != ReplicaPhase.ASLEEP or host is None:
            return False
        reserved = self.reserved.get(host.id, Reserved())
        totals = {gpu.uuid: gpu.total_bytes for gpu in host.gpus}
        totals[MEMORY] = host.memory_bytes - SYSTEM_RESERVE_BYTES
        return all(
            device in totals
            and not reserved.of(device).whole
            and totals[device] - reserved.of(device).bytes + residual_bytes(replica)
            >= replica.memory_bytes
            for device in replica.gpu_uuids or [MEMORY]
        )


def read(now: datetime, newest: Mapping[UUID, Revision]) -> Rungs:
    """Return what the ladder needs to know; next to nothing where nobody wants sleepers."""
    seconds = starts.rung_seconds()
    wanting = list(
        Deployment.objects.select_related("scaling", "scaler").filter(scaling__shares_pool=True)
    )
    asleep = list(
        Replica.objects.filter(phase=ReplicaPhase.ASLEEP, host__isnull=False)
        .select_related("deployment", "revision")
        .defer("revision__spec", "revision__settings", "log_tail")
    )
    return Rungs(
        now=now,
        seconds=seconds,
        held=tuple(_held(replica, seconds, now) for replica in asleep),
        shares=_shares(wanting, newest, seconds, now) if wanting else {},
        reserved=reservations() if asleep else {},
    )


def seconds_of(
    seconds: Mapping[str, Mapping[str, float]], row: Deployment, variant: str
) -> Mapping[str, float]:
    """Return the measured seconds per rung of the model that `row` serves."""
    return seconds.get(starts.model_key(row.catalog_slug, variant), {})


def residual_bytes(replica: Replica) -> int:
    """Return what a sleeper still holds per device, as measured; a guess before that."""
    nap = replica.nap or {}
    devices = max(1, len(replica.gpu_uuids))
    measured = nap.get("residual_bytes")
    if measured is None:
        return int(replica.memory_bytes * RESIDUAL_GUESS_RATIO)
    return int(measured) // devices


def saved_seconds(seconds: Mapping[str, float]) -> float:
    """Return what a wake-up saves against a start from the cache."""
    cached = seconds.get(Rung.CACHED, TYPICAL_SECONDS[Rung.CACHED])
    return cached - seconds.get(Rung.ASLEEP, TYPICAL_SECONDS[Rung.ASLEEP])


def _held(replica: Replica, seconds: Mapping[str, Mapping[str, float]], now: datetime) -> Held:
    row = replica.deployment
    used_at = row.used_at or row.created_at
    assert replica.host_id is not None  # as read
    return Held(
        replica_id=replica.pk,
        deployment=row.name,
        host_id=replica.host_id,
        gpu_uuids=tuple(replica.gpu_uuids),
        residual_bytes=residual_bytes(replica),
        idle_seconds=(now - used_at).total_seconds(),
        saved_seconds=saved_seconds(seconds_of(seconds, row, replica.revision.variant)),
    )


def _shares(
    rows: Iterable[Deployment],
    newest: Mapping[UUID, Revision],
    seconds: Mapping[str, Mapping[str, float]],
    now: datetime,
) -> dict[UUID, int]:
    pools = dict(WarmPool.objects.values_list("gpu_kind", "slots"))
    members: dict[str, list[Member]] = {}
    for row in rows:
        revision = newest.get(row.pk) or row.revisions.order_by("-number").first()
        if revision is None or row.desired != DesiredDeployment.RUNNING or revision.sleep_fault:
            continue
        kind = pool_kind(row, revision, pools)
        members.setdefault(kind, []).append(_member(row, revision, seconds))
    shares: dict[UUID, int] = {}
    for kind, group in members.items():
        shares |= sleepers.share_out(pools.get(kind, 0), group, now)
    return shares


def pool_kind(row: Deployment, revision: Revision, pools: Iterable[str]) -> str:
    """Return the pool that serves `row`: its kind of GPU, or the first one where it names none."""
    if revision.device == "cpu":
        return "cpu"
    named = row.placement.get("gpu_kind")
    return named or min((kind for kind in pools if kind != "cpu"), default="")


def _member(
    row: Deployment, revision: Revision, seconds: Mapping[str, Mapping[str, float]]
) -> Member:
    need = int(revision.need.get("total_bytes", 0))
    return Member(
        deployment_id=row.pk,
        used_at=row.used_at or row.created_at,
        saved_seconds=saved_seconds(seconds_of(seconds, row, revision.variant)),
        residual_bytes=int(need * RESIDUAL_GUESS_RATIO),
        asleep_wanted=row.scaling.asleep_replicas,
        hot=wanted_replicas(row) > 0,
    )
