"""Decide which hosts count as silent or lost. Pure; `actions.sweep_silent` carries it out.

A host is `unknown` after 40 s without a word and `lost` after five minutes. Two traps are avoided:

- When the control plane itself was away, every host looks silent for a moment. A host is lost only
  after it has been *seen* as unknown for the rest of the five minutes, so the first report after a
  pause sets everything right.
- When half of the hosts fall silent at once it is likelier that the network or the control plane
  failed than that all of them died; then nobody is lost (and nothing is replaced) until hosts come
  back or a person says that they are gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from apps.fleet.states import LOST_AFTER_SECONDS, UNKNOWN_AFTER_SECONDS, HostState

FROZEN_FROM_HOSTS = 2
"""Fewer silent hosts than this never freeze anything: a lone host may well have died."""

_UNKNOWN_AFTER = timedelta(seconds=UNKNOWN_AFTER_SECONDS)
_LOST_AFTER = timedelta(seconds=LOST_AFTER_SECONDS)


@dataclass(frozen=True, kw_only=True)
class SeenHost:
    """What the decision needs of a host."""

    id: UUID
    name: str
    state: HostState
    state_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, kw_only=True)
class HostMove:
    """A host goes from one state to another; the caller writes the Event."""

    host_id: UUID
    host: str
    old: HostState
    new: HostState
    reason: str


def is_frozen(hosts: Sequence[SeenHost], now: datetime) -> bool:
    """Return whether so many hosts are silent at once that none may be given up."""
    counted = [host for host in hosts if host.state is not HostState.LOST]
    silent = [host for host in counted if _is_silent(host, now)]
    return len(silent) >= FROZEN_FROM_HOSTS and 2 * len(silent) >= len(counted)


def due_moves(hosts: Sequence[SeenHost], now: datetime) -> list[HostMove]:
    """Return the moves that silence makes due."""
    frozen = is_frozen(hosts, now)
    moves = [_to_unknown(host, now) or _to_lost(host, now, frozen=frozen) for host in hosts]
    return [move for move in moves if move is not None]


def _is_silent(host: SeenHost, now: datetime) -> bool:
    return now - host.last_seen_at >= _UNKNOWN_AFTER


def _to_unknown(host: SeenHost, now: datetime) -> HostMove | None:
    if host.state is not HostState.READY or not _is_silent(host, now):
        return None
    seconds = (now - host.last_seen_at).total_seconds()
    return HostMove(
        host_id=host.id,
        host=host.name,
        old=host.state,
        new=HostState.UNKNOWN,
        reason=f"No word from {host.name} for {seconds:.0f} s; its replicas may well serve on.",
    )


def _to_lost(host: SeenHost, now: datetime, *, frozen: bool) -> HostMove | None:
    if host.state is not HostState.UNKNOWN or frozen:
        return None
    silent_long = now - host.last_seen_at >= _LOST_AFTER
    watched_long = now - host.state_at >= _LOST_AFTER - _UNKNOWN_AFTER
    if not (silent_long and watched_long):
        return None
    seconds = (now - host.last_seen_at).total_seconds()
    return HostMove(
        host_id=host.id,
        host=host.name,
        old=host.state,
        new=HostState.LOST,
        reason=f"No word from {host.name} for {seconds:.0f} s; its replicas are replaced.",
    )
