"""What the page of one deployment tells: its start, its failure, its replicas, its prices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.dashboard import rows, words
from apps.dashboard.queries import Seen
from apps.dashboard.words import Status
from apps.deployments import actions, members
from apps.deployments import queries as deployment_queries
from apps.deployments.models import Member, Replica
from apps.deployments.states import COMING, DesiredReplica, ReplicaPhase
from apps.fleet import queries as fleet_queries
from apps.lib.problems import Problem
from apps.telemetry.numbers import FleetNumbers, ReplicaNumbers

STEPS = (
    ("place", "Placed on a host"),
    ("image", "Image"),
    ("engine", "Engine"),
    ("weights", "Weights"),
    ("import", "Engine starts"),
    ("load", "Load weights"),
    ("compile", "Compile"),
    ("graphs", "Graphs"),
    ("warm-up", "First token"),
)
"""Stages of a start in their order, in the words of `agents.wire.Progress`."""

_OPTIONAL = {"image", "engine", "weights", "compile", "graphs"}
"""Stages that many starts do not have; shown only once they happen."""

FIXES = {
    "oom": "Give the replica more memory, or lower the context length or the KV cache.",
    "weights_checksum": "The file differs from the catalog's checksum. Delete it and start again; "
    "if it repeats, the source has changed.",
    "disk_full": "Free disk space on the host; the download goes on where it stopped.",
    "docker_down": "Start the Docker daemon on the host, or set HEARTH_RUNTIME=process.",
    "image_missing": "Load the engine's image on the host, or let it reach the registry.",
    "engine_install": "Check the host's access to the package index, then start again.",
    "start_timeout": "Look at the last lines of the log; a larger model may need more time.",
    "weights_missing": "Check the host's access to the source of the weights.",
    "port_taken": "Give the head's host other ports with HEARTH_GROUP_PORTS if it repeats.",
    "unhealthy": "The engine stopped answering; it is replaced by itself.",
}
"""Code of a failure -> what mends it."""


@dataclass(frozen=True, kw_only=True)
class Step:
    word: str
    state: str
    """`done`, `now` or `later`."""
    seconds: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Start:
    """How far the foremost replica is on its way."""

    steps: tuple[Step, ...]
    reason: str
    eta_seconds: float | None
    elapsed_seconds: float
    replica: str
    host: str
    has_log: bool


def start(seen: Seen, now: datetime) -> Start | None:
    """Return the stepper of a deployment that is not serving yet, None when nothing starts."""
    progress = seen.status.progress
    if progress is None:
        return None
    replica = next(r for r in seen.replicas if r.pk == progress.replica_id)
    if _is_down(replica):
        return None
    return Start(
        steps=_steps(replica, progress.stage, progress.ratio),
        reason=replica.reason or seen.deployment.reason,
        eta_seconds=progress.eta_seconds,
        elapsed_seconds=(now - replica.created_at).total_seconds(),
        replica=str(replica.pk),
        host=replica.host.name if replica.host else "",
        has_log=replica.host is not None and replica.phase != ReplicaPhase.PENDING,
    )


def _steps(replica: Replica, stage: str, ratio: float | None) -> tuple[Step, ...]:
    taken = replica.stage_seconds
    placed = replica.host is not None
    names = [name for name, _ in STEPS]
    current = names.index(stage) if stage in names else (1 if placed else 0)
    made = []
    for number, (name, word) in enumerate(STEPS):
        if name == "place":
            made.append(Step(word=word, state="done" if placed else "now"))
        elif name == stage:
            made.append(Step(word=word, state="now", seconds=taken.get(name), ratio=ratio))
        elif name in taken:
            made.append(Step(word=word, state="done", seconds=taken[name]))
        elif number > current and name not in _OPTIONAL:
            made.append(Step(word=word, state="later"))
    return tuple(made)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a replica is down."""

    reason: str
    code: str
    exit_code: int | None
    fix: str
    lines: Sequence[str]
    host: str
    at: datetime
    retry_at: datetime | None
    failures: int


def failure(seen: Seen) -> Failure | None:
    """Return the newest failure among the wanted replicas, None if there is none."""
    failed = [r for r in seen.replicas if r.desired == DesiredReplica.RUNNING and _is_down(r)]
    if not failed:
        return None
    newest = max(failed, key=lambda r: r.phase_at)
    return Failure(
        reason=newest.reason or "It ended without saying why.",
        code=newest.code,
        exit_code=newest.exit_code,
        fix=FIXES.get(newest.code, "Look at the last lines of its log below."),
        lines=newest.log_tail,
        host=newest.host.name if newest.host else "",
        at=newest.phase_at,
        retry_at=newest.retry_at,
        failures=newest.failures,
    )


@dataclass(frozen=True, kw_only=True)
class ReplicaRow:
    """One replica in the table."""

    id: str
    status: Status
    phase: str
    reason: str
    host: str
    device: str
    revision: int
    since: datetime
    numbers: ReplicaNumbers
    start_seconds: float | None
    """From the order to ready, when it is ready."""
    restarts: int
    leaving: bool
    members: tuple["MemberRow", ...] = ()
    """Of one over several hosts, by rank."""

    @property
    def short(self) -> str:
        return self.id[:8]


def _is_down(replica: Replica) -> bool:
    """Return whether it failed, or rests before it takes the place of a group that did."""
    rests = replica.host_id is None and replica.retry_at is not None
    return rests or replica.phase == ReplicaPhase.FAILED


@dataclass(frozen=True, kw_only=True)
class MemberRow:
    """One host's part of a replica over several."""

    rank: int
    host: str
    device: str
    status: Status
    reason: str


def replica_rows(seen: Seen, numbers: FleetNumbers) -> list[ReplicaRow]:
    """Return the replicas that are not gone, oldest first."""
    parts = members.of(seen.replicas)
    return [_replica_row(row, numbers, parts.get(row.pk, ())) for row in seen.replicas]


def _replica_row(replica: Replica, numbers: FleetNumbers, parts: Iterable[Member]) -> ReplicaRow:
    ready_at = replica.ready_at if replica.phase == ReplicaPhase.READY else None
    return ReplicaRow(
        id=str(replica.pk),
        status=words.of_replica(replica.phase),
        phase=replica.phase,
        reason=replica.reason,
        host=replica.host.name if replica.host else "",
        device=_device(replica),
        revision=replica.revision.number,
        since=replica.phase_at,
        numbers=numbers.replicas.get(str(replica.pk), ReplicaNumbers()),
        start_seconds=sum(replica.stage_seconds.values()) if ready_at else None,
        restarts=replica.restarts,
        leaving=replica.desired != DesiredReplica.RUNNING,
        members=tuple(
            MemberRow(
                rank=part.rank,
                host=part.host.name,
                device=_device(part),
                status=words.of_replica(part.phase),
                reason=part.reason,
            )
            for part in parts
        ),
    )


def _device(place: Replica | Member) -> str:
    names = rows.gpu_names(place)
    return f"{len(names)}× {names[0]}" if names else "CPU"  # noqa: RUF001  # a times sign


@dataclass(frozen=True, kw_only=True)
class HostPrice:
    """Price of a host that this deployment uses."""

    host: str
    usd_per_hour: float
    is_default: bool


def prices(seen: Seen) -> list[HostPrice]:
    """Return the price of each host that holds a replica, by name."""
    book = fleet_queries.price_book()
    parts = members.of(seen.replicas)
    places = (place for r in seen.replicas for place in parts.get(r.pk, [r]))
    hosts = {place.host.name: place.host for place in places if place.host}
    found = {name: fleet_queries.price_of(host, book) for name, host in sorted(hosts.items())}
    return [
        HostPrice(host=name, usd_per_hour=float(price), is_default=default)
        for name, (price, default) in found.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Newest log lines of a replica; `pending` names a read that its host has not answered yet."""

    lines: tuple[str, ...] = ()
    replica: str = ""
    pending: str = ""
    error: str = ""


def log_tail(seen: Seen, request_id: str, *, now: datetime) -> Tail:
    """Return the answer to read `request_id`, or ask the host of the starting replica for one.

    Raises Problem 409 when no replica has a log. Never waits.
    """
    if request_id:
        return _answer(request_id)
    placed = [r for r in seen.replicas if r.host is not None]
    coming = [r for r in placed if ReplicaPhase(r.phase) in COMING]
    if not placed:
        raise Problem(409, "not_placed", "No replica is on a host yet, so there is no log.")
    replica = (coming or placed)[-1]
    asked = actions.request_log(replica, lines=200, now=now)
    return Tail(replica=str(replica.pk), pending=str(asked.pk))


def _answer(request_id: str) -> Tail:
    try:
        reply = deployment_queries.answer_of(UUID(request_id))
    except ValueError as error:
        raise Problem(400, "invalid", "read: this is not the id of a read.") from error
    if reply is None:
        return Tail(pending=request_id)
    return Tail(lines=reply.lines, error=reply.error)
