"""The eight status words of the pages, and which one each state of the API is shown as.

States keep their lower-case words in the API; people read the same eight words everywhere.
"""

from dataclasses import dataclass

from apps.deployments.states import DeploymentPhase, ReplicaPhase
from apps.fleet.states import HostState


@dataclass(frozen=True)
class Status:
    """`key` names the glyph and the CSS class, `word` is what people read."""

    key: str
    word: str


LIVE = Status("live", "Live")
STARTING = Status("starting", "Starting")
SCALING = Status("scaling", "Scaling")
DRAINING = Status("draining", "Draining")
DEGRADED = Status("degraded", "Degraded")
FAILED = Status("failed", "Failed")
ASLEEP = Status("asleep", "Asleep")
STOPPED = Status("stopped", "Stopped")
UNKNOWN = Status("unknown", "Unknown")
"""A host that stopped reporting: a state of the data, not of a life."""

_DEPLOYMENT = {
    DeploymentPhase.STARTING: STARTING,
    DeploymentPhase.READY: LIVE,
    DeploymentPhase.DEGRADED: DEGRADED,
    DeploymentPhase.SCALING: SCALING,
    DeploymentPhase.ASLEEP: ASLEEP,
    DeploymentPhase.STOPPED: STOPPED,
    DeploymentPhase.FAILED: FAILED,
}

_REPLICA = {
    ReplicaPhase.PENDING: STARTING,
    ReplicaPhase.FETCHING: STARTING,
    ReplicaPhase.STARTING: STARTING,
    ReplicaPhase.READY: LIVE,
    ReplicaPhase.DRAINING: DRAINING,
    ReplicaPhase.ASLEEP: ASLEEP,
    ReplicaPhase.STOPPED: STOPPED,
    ReplicaPhase.FAILED: FAILED,
    ReplicaPhase.LOST: UNKNOWN,
}

_HOST = {HostState.READY: LIVE, HostState.UNKNOWN: UNKNOWN, HostState.LOST: FAILED}

DEPLOYMENT_ORDER = (LIVE, STARTING, SCALING, DEGRADED, FAILED, ASLEEP, STOPPED)
"""Order of the filter chips."""


def of_deployment(phase: str) -> Status:
    """Return how a deployment's phase is shown."""
    return _DEPLOYMENT[DeploymentPhase(phase)]


def of_replica(phase: str) -> Status:
    """Return how a replica's phase is shown."""
    return _REPLICA[ReplicaPhase(phase)]


def of_host(state: str, *, cordoned: bool = False) -> Status:
    """Return how a host's state is shown; a cordoned host that reports drains."""
    status = _HOST[HostState(state)]
    return DRAINING if cordoned and status is LIVE else status
