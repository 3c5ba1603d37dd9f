"""The steps that a plan is made of: decided by `plan` and its parts, written by `apply`."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.deployments.reconcile.placement import NotPlaced, Placed
from apps.deployments.states import RolloutStage
from apps.deployments.verdict import Verdict


@dataclass(frozen=True)
class CreateReplica:
    """Add a replica, not yet placed."""

    revision_id: UUID | None = None
    """None: of the revision that all replicas are to become."""


@dataclass(frozen=True)
class PlaceReplica:
    replica_id: UUID
    placed: Placed


@dataclass(frozen=True)
class KeepWaiting:
    """No host has room: say so on the replica."""

    replica_id: UUID
    not_placed: NotPlaced


@dataclass(frozen=True)
class DrainReplica:
    replica_id: UUID
    until: datetime
    why: str


@dataclass(frozen=True)
class StopReplica:
    """Order the replica gone: it serves nothing, or its drain is over."""

    replica_id: UUID
    why: str


@dataclass(frozen=True)
class ScheduleRetry:
    replica_id: UUID
    at: datetime


@dataclass(frozen=True)
class RetryReplica:
    replica_id: UUID


@dataclass(frozen=True)
class ReplaceGroup:
    """A replica over several hosts is broken: order it gone, and want another in its place."""

    replica_id: UUID
    why: str
    failures: int
    """In a row, this one counted."""
    retry_at: datetime | None
    """Not to be placed before; None for at once."""


@dataclass(frozen=True)
class ReleaseGroup:
    """Nothing of it runs where that can be known: its room is free. Its lost host is to tell."""

    replica_id: UUID


@dataclass(frozen=True)
class BuryGroup:
    """All hosts have said that their part of it is gone."""

    replica_id: UUID


@dataclass(frozen=True)
class ForgetFailures:
    replica_id: UUID


@dataclass(frozen=True)
class MarkLost:
    replica_id: UUID


@dataclass(frozen=True)
class CreateSleeper:
    """Add a replica of the newest revision that is started and put to sleep at once."""


@dataclass(frozen=True)
class RestReplica:
    """Drain a replica that is not needed now, to put it to sleep afterwards."""

    replica_id: UUID
    until: datetime
    why: str


@dataclass(frozen=True)
class LayDown:
    """Its drain is over: tell the agent to put it to sleep."""

    replica_id: UUID


@dataclass(frozen=True)
class WakeReplica:
    """Raise a sleeper to serve: the rung that is ready first."""

    replica_id: UUID
    seconds: float
    """Until it serves, by measured times."""
    why: str


@dataclass(frozen=True)
class EvictSleeper:
    """Another deployment's sleeper makes room: of those in the way the least valuable."""

    replica_id: UUID
    why: str


@dataclass(frozen=True)
class NoteUse:
    """The deployment is in use: its sleepers stay."""


@dataclass(frozen=True)
class RemoveDeployment:
    """Nothing of it is left anywhere: the row can go."""


@dataclass(frozen=True)
class NoteProgress:
    """More candidates are ready than ever before: the deadline begins anew."""

    ready: int


@dataclass(frozen=True)
class NoteVerdict:
    """A look at the evidence that decides nothing yet."""

    verdict: Verdict


@dataclass(frozen=True)
class AdvanceRollout:
    stage: RolloutStage
    why: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class PauseRollout:
    """Go no further without a person."""

    why: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class FinishRollout:
    """The candidate has taken over: it is the live revision now."""


@dataclass(frozen=True)
class RollBack:
    """Give the candidate up."""

    why: str
    verdict: Verdict | None = None


type RolloutStep = (
    NoteProgress | NoteVerdict | AdvanceRollout | PauseRollout | FinishRollout | RollBack
)

type Step = (
    CreateReplica
    | PlaceReplica
    | KeepWaiting
    | DrainReplica
    | StopReplica
    | ScheduleRetry
    | RetryReplica
    | ReplaceGroup
    | ReleaseGroup
    | BuryGroup
    | ForgetFailures
    | MarkLost
    | CreateSleeper
    | RestReplica
    | LayDown
    | WakeReplica
    | EvictSleeper
    | NoteUse
    | RemoveDeployment
    | RolloutStep
)
