"""The steps that a plan is made of: decided by `plan` and its parts, written by `apply`."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.deployments.reconcile.placement import NotPlaced, Placed


@dataclass(frozen=True)
class CreateReplica:
    """Add a replica of the newest revision, not yet placed."""


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
class ForgetFailures:
    replica_id: UUID


@dataclass(frozen=True)
class MarkLost:
    replica_id: UUID


@dataclass(frozen=True)
class RemoveDeployment:
    """Nothing of it is left anywhere: the row can go."""


type Step = (
    CreateReplica
    | PlaceReplica
    | KeepWaiting
    | DrainReplica
    | StopReplica
    | ScheduleRetry
    | RetryReplica
    | ForgetFailures
    | MarkLost
    | RemoveDeployment
)
