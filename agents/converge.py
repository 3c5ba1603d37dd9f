"""Decide the next step for a replica: what is ordered against what is seen. Pure.

`accept` is the fence in front: it takes the control plane's snapshots in order. `next_step` is
asked again after every step and every change, so nothing depends on having seen an event. Rules:
absence is never a delete order; a replica's instances are touched only by an order of their own
generation or a newer one, or by any running order after the control plane's database was
restored; a generation that failed is not started again here unless the control plane is away.
Called by `agents.supervise` and `agents.agent`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.journal import Move, Past
from agents.runtimes.base import Instance
from agents.wire import DesiredPhase, ReplicaOrder, SyncReply

RESTART_BASE_SECONDS = 2.0
RESTART_CAP_SECONDS = 300.0
"""Local restarts wait 2, 4, 8 … seconds, at most this long."""


@dataclass(frozen=True)
class Desired:
    """The newest state that was accepted."""

    incarnation: str = ""
    revision: int = -1
    orders: Mapping[str, ReplicaOrder] = field(default_factory=dict)


def accept(held: Desired, reply: SyncReply) -> Desired | None:
    """Return what holds after `reply`, or None if it is older than what is held.

    Within one incarnation neither the revision nor a replica's generation goes back. Another
    incarnation (a database restored from a backup) starts both anew.
    """
    if reply.incarnation != held.incarnation:
        orders = {order.replica_id: order for order in reply.replicas}
        return Desired(reply.incarnation, reply.revision, orders)
    if reply.revision < held.revision:
        return None
    orders = {}
    for order in reply.replicas:
        known = held.orders.get(order.replica_id)
        newer = known is None or order.generation >= known.generation
        orders[order.replica_id] = order if newer or known is None else known
    return Desired(reply.incarnation, reply.revision, orders)


@dataclass(frozen=True)
class Seen:
    """All that `next_step` may look at besides the order."""

    instances: tuple[Instance, ...] = ()
    past: Past | None = None
    away: bool = False
    """Whether the control plane has been out of reach for a while."""
    now: float = 0.0
    """Unix time."""


@dataclass(frozen=True)
class Start:
    """Bring what the order needs and start it. `again`: a local restart."""

    order: ReplicaOrder
    again: bool = False


@dataclass(frozen=True)
class Attend:
    """Follow a running instance: bring it to ready, then watch it."""

    name: str
    """Of the instance; its changing fields are looked up, so that equal steps compare equal."""
    asleep: bool | None = None
    """Put it to sleep, or wake it if it sleeps; None leaves it as it is."""


@dataclass(frozen=True)
class Stop:
    """Stop and remove these instances, oldest generation first."""

    names: tuple[str, ...]
    grace_seconds: float


@dataclass(frozen=True)
class Conclude:
    """An instance ended without an order, or is gone (`name` empty): record the failure."""

    generation: int
    name: str = ""


@dataclass(frozen=True)
class Settle:
    """A tombstone is fulfilled: nothing of the replica is left."""

    generation: int


@dataclass(frozen=True)
class Wait:
    """Nothing to do before the order changes, or before `until` (Unix time) where given."""

    until: float | None = None


type Step = Start | Attend | Stop | Conclude | Settle | Wait


def next_step(order: ReplicaOrder | None, seen: Seen) -> Step:
    """Return the step that brings a replica nearer to `order`; None: no order names it."""
    if order is None:
        return _keep(seen)
    if order.desired is DesiredPhase.ABSENT:
        return _bury(order, seen)
    return _run(order, seen)


def _keep(seen: Seen) -> Step:
    """Absence is never a delete order: what runs is followed, what ended is told."""
    newest = _newest(seen.instances)
    if newest is None or _is_over(seen.past, newest.generation):
        return Wait()
    return Attend(newest.name) if newest.running else Conclude(newest.generation, newest.name)


def _bury(order: ReplicaOrder, seen: Seen) -> Step:
    covered = [item for item in seen.instances if item.generation <= order.generation]
    if covered:
        return _stop(covered, order)
    if seen.instances:  # newer than the tombstone: only a restored control plane can say so
        return _keep(seen)
    past = seen.past
    if past is not None and past.move is Move.STOPPED and past.generation == order.generation:
        return Wait()
    return Settle(order.generation)


def _run(order: ReplicaOrder, seen: Seen) -> Step:
    others = [item for item in seen.instances if item.generation != order.generation]
    if others:
        return _stop(others, order)
    current = _newest(seen.instances)
    if current is not None and current.running:
        return Attend(current.name, asleep=order.desired is DesiredPhase.ASLEEP)
    past = seen.past
    if past is None or past.generation != order.generation:
        return Start(order) if current is None else Conclude(order.generation, current.name)
    if past.move is Move.FAILED:
        return _start_again_or_wait(order, past, seen)
    if current is not None:
        return _after_an_end(order, past, current)
    if past.move in (Move.STARTED, Move.READY, Move.ASLEEP):
        return Conclude(order.generation)
    return Start(order)


def _after_an_end(order: ReplicaOrder, past: Past, current: Instance) -> Step:
    """An instance of the right generation does not run: clear it away, finish it, or mourn it."""
    if past.move is Move.CLEARED:
        return _stop([current], order)
    if past.move is Move.STARTING and current.exit_code is None:
        return Start(order)  # made but never begun: the agent was killed in between
    return Conclude(order.generation, current.name)


def _start_again_or_wait(order: ReplicaOrder, past: Past, seen: Seen) -> Step:
    """The control plane owns the restart policy; while it is away this host restarts alone."""
    if not seen.away:
        return Wait()
    delay_seconds = restart_delay_seconds(past.restarts)
    if 0 <= seen.now - past.at < delay_seconds:
        return Wait(past.at + delay_seconds)
    return Start(order, again=True)  # rested enough, or the wall clock was set back


def restart_delay_seconds(restarts: int) -> float:
    """Return how long a failed replica rests before local restart number `restarts` + 1."""
    return min(RESTART_CAP_SECONDS, RESTART_BASE_SECONDS * 2.0 ** min(restarts, 16))


def _stop(instances: list[Instance], order: ReplicaOrder) -> Stop:
    oldest_first = sorted(instances, key=lambda item: item.generation)
    return Stop(tuple(item.name for item in oldest_first), order.stop_grace_seconds)


def _newest(instances: tuple[Instance, ...]) -> Instance | None:
    """Prefer what runs, then the higher generation."""
    return max(instances, key=lambda item: (item.running, item.generation), default=None)


def _is_over(past: Past | None, generation: int) -> bool:
    return past is not None and past.move is Move.FAILED and past.generation == generation
