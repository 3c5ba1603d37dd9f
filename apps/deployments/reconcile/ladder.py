"""Decide from which rung each slot is filled: hot · asleep · cached · cold. Pure.

The autoscaler says how many serve, the rollout how many of each revision; this module turns their
"one more" into "wake that sleeper" where waking is the quicker way by measured times, and their
"one less" into "put that one to sleep" where sleepers are wanted. It also keeps the wanted number
of sleepers, and says which of them make room for a deployment that finds none.

A replica that is wanted hot never sleeps and one that sleeps is never created anew in the same
pass, so waking and sleeping cannot chase each other. Called by `plan`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agents.wire import Rung
from apps.deployments.reconcile.placement import NotPlaced, Placed
from apps.deployments.reconcile.sleepers import Held, least_valuable_first
from apps.deployments.reconcile.snapshot import SeenGpu, SeenHost, SeenReplica, Snapshot
from apps.deployments.reconcile.steps import (
    CreateReplica,
    CreateSleeper,
    DrainReplica,
    EvictSleeper,
    LayDown,
    NoteUse,
    RestReplica,
    Step,
    StopReplica,
    WakeReplica,
)
from apps.deployments.states import COMING, DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState

REFUSED_SLEEP = frozenset({"cannot_sleep", "sleep_off"})
"""Codes of a replica that was told to sleep and serves on: see `agents.wire.ReplicaReport`."""
USE_NOTED_EVERY = timedelta(minutes=5)

type IsIdle = Callable[[SeenReplica], bool]
type PlaceOn = Callable[[Sequence[SeenHost]], Placed | NotPlaced]


@dataclass(frozen=True)
class _Slot:
    """A sleeper that could serve, and in how many seconds."""

    replica: SeenReplica
    seconds: float


def climb(snapshot: Snapshot, steps: Sequence[Step], now: datetime, is_idle: IsIdle) -> list[Step]:
    """Return `steps` with each slot filled from, or left to, the best rung, and the sleepers kept.

    `is_idle` tells of a draining replica whether it has finished its requests.
    """
    sleepers = [r for r in snapshot.replicas if r.desired is DesiredReplica.ASLEEP]
    if snapshot.desired is not DesiredDeployment.RUNNING:
        return [*steps, *(StopReplica(r.id, "nothing of it is wanted") for r in sleepers)]
    usable = [r for r in sleepers if not _why_useless(r, snapshot)]
    filled, usable = _fill(snapshot, steps, usable, now)
    rested, resting = _rest(snapshot, filled, len(usable))
    gone = [StopReplica(r.id, why) for r in sleepers if (why := _why_useless(r, snapshot))]
    return [
        *rested,
        *gone,
        *_lay_down(usable, now, is_idle),
        *_keep_count(snapshot, rested, usable, resting),
        *_note_use(snapshot, now),
    ]


def make_room(snapshot: Snapshot, held: Sequence[Held], place: PlaceOn) -> list[Step]:
    """Return the fewest and least valuable sleepers of others whose going lets a replica in.

    `place` tries hosts; empty when even without any sleeper there is no room.
    """
    taken: list[Held] = []
    for sleeper in least_valuable_first(held):
        taken.append(sleeper)
        found = place(_without(snapshot.hosts, taken))
        if isinstance(found, Placed):
            why = f"{snapshot.name} needs its room on {found.host_name}"
            return [EvictSleeper(h.replica_id, why) for h in _needed(taken, found, snapshot, place)]
    return []


def _needed(taken: Sequence[Held], found: Placed, snapshot: Snapshot, place: PlaceOn) -> list[Held]:
    """Return those of `taken` without which it would not fit where it was found to."""
    hosts = {place.host_id for place in found.places}
    here = [h for h in taken if h.host_id in hosts]
    for sleeper in reversed(least_valuable_first(here)):
        fewer = [h for h in here if h is not sleeper]
        if isinstance(place(_without(snapshot.hosts, fewer)), Placed):
            here = fewer
    return here


def _without(hosts: Sequence[SeenHost], gone: Sequence[Held]) -> list[SeenHost]:
    """Return `hosts` as they would be without these sleepers."""
    return [_host_without(host, [h for h in gone if h.host_id == host.id]) for host in hosts]


def _host_without(host: SeenHost, gone: Sequence[Held]) -> SeenHost:
    if not gone:
        return host
    memory = sum(h.residual_bytes for h in gone if not h.gpu_uuids)
    gpus = tuple(_gpu_without(gpu, gone) for gpu in host.gpus)
    return replace(host, free_memory_bytes=host.free_memory_bytes + memory, gpus=gpus)


def _gpu_without(gpu: SeenGpu, gone: Sequence[Held]) -> SeenGpu:
    freed = sum(h.residual_bytes for h in gone if gpu.uuid in h.gpu_uuids)
    return replace(gpu, free_bytes=gpu.free_bytes + freed) if freed else gpu


# --- Sleepers ----------------------------------------------------------------------------------


def _is_lasting(replica: SeenReplica, snapshot: Snapshot) -> bool:
    """Return whether its revision may serve: while a rollout is open the live one still may."""
    rollout = snapshot.rollout
    live = snapshot.revision.id if rollout is None else rollout.live.id
    return replica.revision_id in (snapshot.revision.id, live)


def _why_useless(replica: SeenReplica, snapshot: Snapshot) -> str:
    """Return why this sleeper can never serve again, empty if it can."""
    if not _is_lasting(replica, snapshot):
        return f"revision {snapshot.revision.number} takes over"
    if replica.host_state is HostState.LOST:
        return "its host is lost"
    if replica.host_cordoned:
        return "its host is being emptied"
    if replica.code in REFUSED_SLEEP:
        return f"it cannot sleep, the next rung is used: {replica.reason}"
    return ""


def _fill(
    snapshot: Snapshot, steps: Sequence[Step], usable: list[SeenReplica], now: datetime
) -> tuple[list[Step], list[SeenReplica]]:
    """Return the steps with a wake-up in place of a new replica wherever that is quicker."""
    slots = sorted(_slots(snapshot, usable, now), key=lambda s: (s.seconds, str(s.replica.id)))
    fresh = snapshot.start_seconds(Rung.CACHED)
    filled: list[Step] = []
    woken: set[object] = set()
    for step in steps:
        slot = _best(slots, step, snapshot) if isinstance(step, CreateReplica) else None
        if slot is not None and slot.seconds <= fresh:
            slots.remove(slot)
            woken.add(slot.replica.id)
            filled.append(WakeReplica(slot.replica.id, slot.seconds, _why_woken(slot, fresh)))
        else:
            filled.append(step)
    return filled, [r for r in usable if r.id not in woken]


def _best(slots: Sequence[_Slot], step: CreateReplica, snapshot: Snapshot) -> _Slot | None:
    """Return the quickest sleeper of the revision that `step` asks for."""
    wanted = step.revision_id or snapshot.revision.id
    return next((slot for slot in slots if slot.replica.revision_id == wanted), None)


def _slots(snapshot: Snapshot, usable: Iterable[SeenReplica], now: datetime) -> Iterable[_Slot]:
    """Yield the sleepers that could be raised now, with the seconds until they serve."""
    for replica in usable:
        if replica.phase is ReplicaPhase.ASLEEP and replica.can_wake:
            yield _Slot(replica, snapshot.start_seconds(Rung.ASLEEP))
        elif replica.phase is ReplicaPhase.DRAINING and replica.drain_until is not None:
            yield _Slot(replica, 0.0)  # the agent was not told yet: it serves again at once
        elif replica.phase in COMING:
            since = (now - replica.created_at).total_seconds()
            yield _Slot(replica, max(0.0, snapshot.start_seconds(Rung.CACHED) - since))


def _why_woken(slot: _Slot, fresh: float) -> str:
    what = {
        ReplicaPhase.ASLEEP: "wakes",
        ReplicaPhase.DRAINING: "had not lain down yet and serves again",
    }.get(slot.replica.phase, "was on its way to sleep and stays up")
    return f"a sleeper {what} in about {slot.seconds:.1f} s; a new start takes {fresh:.1f} s"


def _rest(snapshot: Snapshot, steps: Sequence[Step], asleep: int) -> tuple[list[Step], int]:
    """Return the steps with a rest in place of a drain while sleepers are wanted, and how many."""
    room = 0 if snapshot.sleep_fault else max(0, snapshot.asleep_wanted - asleep)
    lasting = {
        r.id
        for r in snapshot.replicas
        if r.revision_id == snapshot.revision.id and not _why_useless(r, snapshot)
    }
    rested: list[Step] = []
    resting = 0
    for step in steps:
        if isinstance(step, DrainReplica) and resting < room and step.replica_id in lasting:
            resting += 1
            rested.append(RestReplica(step.replica_id, step.until, step.why))
        else:
            rested.append(step)
    return rested, resting


def _lay_down(usable: Iterable[SeenReplica], now: datetime, is_idle: IsIdle) -> list[Step]:
    return [
        LayDown(r.id)
        for r in usable
        if r.phase is ReplicaPhase.DRAINING
        and r.drain_until is not None
        and (now >= r.drain_until or is_idle(r))
    ]


def _keep_count(
    snapshot: Snapshot, steps: Sequence[Step], usable: Sequence[SeenReplica], resting: int
) -> list[Step]:
    """Return the steps toward the wanted number of sleepers; what serves comes first."""
    wanted = 0 if snapshot.sleep_fault else snapshot.asleep_wanted
    have = len(usable) + resting
    if have > wanted:
        # A surplus that only now appears is not what just lay down for good reason: oldest kept.
        order = sorted(usable, key=lambda r: (r.phase is ReplicaPhase.ASLEEP, -r.age_key))
        return [StopReplica(r.id, _why_surplus(snapshot)) for r in order[: have - wanted]]
    climbing = any(isinstance(step, CreateReplica | WakeReplica) for step in steps)
    hot = [r for r in snapshot.replicas if r.desired is DesiredReplica.RUNNING]
    serving = sum(r.phase is ReplicaPhase.READY for r in hot)
    if climbing or serving < snapshot.wanted_replicas or snapshot.rollout is not None:
        return []
    return [CreateSleeper() for _ in range(wanted - have)]


def _why_surplus(snapshot: Snapshot) -> str:
    if snapshot.sleep_fault:
        return f"its engine cannot sleep: {snapshot.sleep_fault}"
    return f"{snapshot.asleep_wanted} sleepers are wanted"


def _note_use(snapshot: Snapshot, now: datetime) -> list[Step]:
    """Keep the time of the last use, to a few minutes: it costs a row."""
    in_use = snapshot.wanted_replicas > 0
    stale = snapshot.used_at is None or now - snapshot.used_at >= USE_NOTED_EVERY
    wants = snapshot.keeps_sleepers
    return [NoteUse()] if in_use and stale and wants else []
