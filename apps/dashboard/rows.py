"""What a deployment is in a list, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from apps.catalog import catalog
from apps.dashboard import history, words
from apps.dashboard.queries import Seen
from apps.dashboard.words import Status
from apps.deployments.models import Member, Replica
from apps.deployments.states import DesiredDeployment
from apps.fleet.queries import inventory_of
from apps.telemetry.numbers import FleetNumbers, Flow

ENGINE_WORDS = {"vllm": "vLLM", "simulator": "Simulator"}
PER_PAGE = 100


@dataclass(frozen=True, kw_only=True)
class Row:
    """One deployment in a list."""

    name: str
    status: Status
    reason: str
    model: str
    task: str
    facts: str
    """Engine, variant and device in one dim line."""
    simulated: bool
    ready: int
    wanted: int
    broken: int
    flow: Flow
    limit: int
    memory_bytes: int | None
    usd_per_hour: float
    stoppable: bool
    deleting: bool
    spark: Sequence[float] = ()
    """Output tokens per second of the last minutes, oldest first."""

    @property
    def off(self) -> bool:
        """Whether nothing serves, so that its numbers are dim."""
        return self.ready == 0

    @property
    def load_ratio(self) -> float:
        """Share of its limit that is in flight; order of the list."""
        return self.flow.in_flight / self.limit if self.limit else 0.0

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Price of what it holds over what it makes now; None while it makes nothing."""
        per_hour = self.flow.output_tokens_per_second * 3600
        return self.usd_per_hour / per_hour * 1e6 if per_hour >= 1 else None

    @property
    def text(self) -> str:
        """All that a filter looks through."""
        return f"{self.name} {self.model} {self.facts}".lower()


def row(seen: Seen, numbers: FleetNumbers) -> Row:
    """Return `seen` as a row."""
    deployment = seen.deployment
    return Row(
        name=deployment.name,
        status=words.of_deployment(deployment.phase),
        reason=deployment.reason,
        model=model_name(deployment.catalog_slug),
        task=seen.status.task,
        facts=facts(seen),
        simulated=seen.status.simulated,
        ready=seen.status.ready_replicas,
        wanted=seen.status.wanted_replicas,
        broken=seen.broken,
        flow=numbers.deployments.get(deployment.name, Flow()),
        limit=seen.limit,
        memory_bytes=_memory(seen, numbers),
        usd_per_hour=seen.usd_per_hour,
        stoppable=deployment.desired == DesiredDeployment.RUNNING,
        deleting=deployment.desired == DesiredDeployment.DELETED,
    )


def _memory(seen: Seen, numbers: FleetNumbers) -> int | None:
    held = [numbers.replicas[str(r.pk)] for r in seen.replicas if str(r.pk) in numbers.replicas]
    known = [one.memory_bytes for one in held if one.memory_bytes is not None]
    return sum(known) if known else None


def with_sparks(rows: Sequence[Row], now: datetime) -> list[Row]:
    """Return `rows` with their sparklines. One query."""
    lines = history.sparks([row.name for row in rows], now=now)
    return [replace(row, spark=lines.get(row.name, ())) for row in rows]


def model_name(slug: str) -> str:
    """Return the catalog's name of a model, its slug when the entry is gone."""
    try:
        return catalog.get(slug).name
    except catalog.UnknownEntry:
        return slug


def facts(seen: Seen) -> str:
    """Return engine, variant and device: `vLLM 0.32.0 · q4_1 · CPU`."""
    versions = {replica.engine_version for replica in seen.replicas if replica.engine_version}
    engine = ENGINE_WORDS.get(seen.revision.engine, seen.revision.engine)
    version = f" {min(versions)}" if len(versions) == 1 and not seen.status.simulated else ""
    return f"{engine}{version} · {seen.revision.variant} · {device(seen)}"


def device(seen: Seen) -> str:
    """Return `CPU`, or how many GPUs of which kind one replica has."""
    gpus = seen.revision.need.get("gpus", 0)
    if not gpus:
        return "CPU"
    names = [name for replica in seen.replicas for name in gpu_names(replica)]
    hosts = seen.revision.need.get("hosts", 1)
    where = f" on {hosts} hosts" if hosts > 1 else ""
    return f"{gpus}× {names[0] if names else 'GPU'}{where}"  # noqa: RUF001  # a multiplication sign


def gpu_names(replica: Replica | Member) -> list[str]:
    """Return the short names of a replica's GPUs, or of those of one of its members."""
    if replica.host is None or not replica.gpu_uuids:
        return []
    gpus = {gpu.uuid: gpu.name for gpu in inventory_of(replica.host).gpus}
    return [gpus.get(uuid, "GPU").removeprefix("NVIDIA ") for uuid in replica.gpu_uuids]
