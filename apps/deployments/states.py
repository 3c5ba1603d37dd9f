"""Phases of replicas and deployments, and the only legal moves between them."""

from enum import StrEnum


class ReplicaPhase(StrEnum):
    """Life of one replica, as observed. Moved by `actions.move_replica` alone."""

    PENDING = "pending"  # wanted, or placed and not yet seen by the agent
    FETCHING = "fetching"  # image, engine environment or weights are brought
    STARTING = "starting"  # load, compile, warm-up, wake
    READY = "ready"  # serves
    DRAINING = "draining"  # finishes its requests, gets no new ones
    ASLEEP = "asleep"  # loaded, memory freed, serves nothing
    STOPPED = "stopped"  # gone on order; final
    FAILED = "failed"  # gone or broken without an order; reason, exit code, last lines are kept
    LOST = "lost"  # its host has been silent too long; it may still run


P = ReplicaPhase

LEGAL_MOVES: dict[ReplicaPhase, frozenset[ReplicaPhase]] = {
    P.PENDING: frozenset({P.FETCHING, P.STARTING, P.STOPPED, P.FAILED}),
    P.FETCHING: frozenset({P.STARTING, P.STOPPED, P.FAILED, P.LOST}),
    P.STARTING: frozenset({P.READY, P.STOPPED, P.FAILED, P.LOST}),
    P.READY: frozenset({P.DRAINING, P.FAILED, P.LOST}),
    P.DRAINING: frozenset({P.READY, P.ASLEEP, P.STOPPED, P.FAILED, P.LOST}),
    P.ASLEEP: frozenset({P.STARTING, P.STOPPED, P.FAILED, P.LOST}),
    P.FAILED: frozenset({P.PENDING, P.STOPPED}),
    P.LOST: frozenset({P.READY, P.ASLEEP, P.STARTING, P.STOPPED, P.FAILED}),
    P.STOPPED: frozenset(),
}

COMING = frozenset({P.PENDING, P.FETCHING, P.STARTING})
"""On the way to serving."""

HOLDING = frozenset(
    {P.PENDING, P.FETCHING, P.STARTING, P.READY, P.DRAINING, P.ASLEEP, P.FAILED, P.LOST}
)
"""Phases in which a placed replica keeps its GPUs and memory reserved."""


def can_move(old: ReplicaPhase, new: ReplicaPhase) -> bool:
    """Return whether a replica may go from `old` to `new`."""
    return new in LEGAL_MOVES[old]


class DesiredReplica(StrEnum):
    """What the reconciler wants of a replica; the agent is told the same word."""

    RUNNING = "running"
    ASLEEP = "asleep"  # drained first while `drain_until` is set, then put to sleep
    DRAINED = "drained"  # takes no new requests, then becomes absent
    ABSENT = "absent"  # stop it; the row stays as history


class DesiredDeployment(StrEnum):
    """What people want of a deployment."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"  # drained, stopped, then the row is removed


class RolloutStrategy(StrEnum):
    """How a new revision takes the place of the live one."""

    ROLLING = "rolling"  # a few replicas at a time
    RECREATE = "recreate"  # all old ones go, then the new ones come
    CANARY = "canary"  # a share of the traffic, a verdict, then rolling
    BLUE_GREEN = "blue_green"  # all new ones come, then all traffic moves at once


class RolloutStage(StrEnum):
    """How far an open rollout is."""

    STARTING = "starting"  # candidates come up; with rolling and recreate they take over as well
    SHADOWING = "shadowing"  # candidates get copies of requests
    CANARY = "canary"  # candidates get their share and are judged
    FLIPPED = "flipped"  # candidates get all; the old ones are kept for a way back
    PROMOTING = "promoting"  # judged fit: candidates take over, a few at a time


class RolloutState(StrEnum):
    """Whether a rollout goes on, and how it ended."""

    OPEN = "open"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"  # a newer change took its place


class ScalingRule(StrEnum):
    """What computes how many replicas are needed; see `reconcile/scaling/`."""

    HEARTH = "hearth"  # offered concurrency, starts counted as supply, hold window
    KNATIVE = "knative"  # Knative's KPA
    KNATIVE_DELAY = "knative-delay"  # the same with a scale-down delay of the hold window
    HPA = "hpa"  # Kubernetes' HorizontalPodAutoscaler
    KEDA = "keda"  # HPA behind KEDA's polling
    RAY = "ray"  # Ray Serve


class ScalingProfile(StrEnum):
    """How much is kept ready for what may come. Of the rule `hearth` alone."""

    BALANCED = "balanced"
    RESPONSIVE = "responsive"
    FRUGAL = "frugal"


class DeploymentPhase(StrEnum):
    """What a deployment is, in one word; computed from its replicas."""

    STARTING = "starting"  # nothing serves yet
    READY = "ready"  # all wanted replicas serve
    DEGRADED = "degraded"  # serves with a fault
    SCALING = "scaling"  # serves, and ready differs from wanted on purpose
    ASLEEP = "asleep"  # at zero, wakes on request
    STOPPED = "stopped"  # off by hand
    FAILED = "failed"  # does not serve and needs a person
