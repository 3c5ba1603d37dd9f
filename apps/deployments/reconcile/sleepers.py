"""Decide how many sleepers a deployment keeps, and which go first when room runs short. Pure.

What holding is worth is `keepalive.value`, which the benchmark shares. Called by `rungs` (how many
may sleep, who holds a slot of a shared pool) and `ladder` (who makes room).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from apps.deployments.reconcile import keepalive

EVICTED_REST_SECONDS = 600.0
"""After a sleeper had to make room, its deployment asks for no new one for so long: the room went
to somebody who serves."""
_ONE_REQUEST = 1.0
"""Requests of late that a sleeper is valued by: how many there were is not kept for one."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A sleeper and what it is worth."""

    replica_id: UUID
    deployment: str
    host_id: UUID
    gpu_uuids: tuple[str, ...]
    residual_bytes: int
    """What it still holds: per GPU, or of the host's memory."""
    idle_seconds: float
    """Since its deployment was last in use."""
    saved_seconds: float
    """What a wake-up saves against the next rung, by measured times."""

    @property
    def value(self) -> float:
        """Return what holding it is worth."""
        saved = max(self.saved_seconds, 0.0)
        return keepalive.value(_ONE_REQUEST, self.idle_seconds, saved, self.residual_bytes)


def may_sleep(
    *, wanted: int, used_at: datetime, evicted_at: datetime | None, ttl_seconds: float,
    now: datetime,
) -> int:  # fmt: skip
    """Return how many of the `wanted` sleepers a deployment keeps now.

    All of them while it is in use and for `ttl_seconds` after (0: for ever); none for a while
    after one had to make room.
    """
    if evicted_at is not None and now - evicted_at < timedelta(seconds=EVICTED_REST_SECONDS):
        return 0
    if ttl_seconds and now - used_at >= timedelta(seconds=ttl_seconds):
        return 0
    return wanted


@dataclass(frozen=True, kw_only=True)
class Member:
    """A deployment that shares a pool."""

    deployment_id: UUID
    used_at: datetime
    saved_seconds: float
    residual_bytes: int
    asleep_wanted: int
    """Of its own; the pool gives beyond it."""
    hot: bool
    """A replica of it serves: the next request needs no sleeper."""


def share_out(slots: int, members: Iterable[Member], now: datetime) -> dict[UUID, int]:
    """Return who holds a slot of a shared pool: at most one each, most valuable first.

    What serves or has a sleeper of its own needs none.
    """
    eligible = [m for m in members if not m.hot and m.asleep_wanted == 0]

    def worth(member: Member) -> tuple[float, str]:
        idle = (now - member.used_at).total_seconds()
        saved = max(member.saved_seconds, 0.0)
        value = keepalive.value(_ONE_REQUEST, idle, saved, member.residual_bytes)
        return -value, str(member.deployment_id)

    return {member.deployment_id: 1 for member in sorted(eligible, key=worth)[:slots]}


def least_valuable_first(held: Sequence[Held]) -> list[Held]:
    """Return `held` in the order in which they go when room runs short."""
    return sorted(held, key=lambda h: (h.value, str(h.replica_id)))
