"""The words for what is wanted and what is seen; they cross the wire as they stand."""

from enum import StrEnum


class DesiredPhase(StrEnum):
    """What the control plane wants of a replica on this host."""

    RUNNING = "running"
    ASLEEP = "asleep"
    ABSENT = "absent"  # a tombstone: stop it and forget it


class ObservedPhase(StrEnum):
    """What the agent sees of a replica."""

    PENDING = "pending"  # order seen, nothing done yet
    FETCHING = "fetching"  # image, engine environment or weights are being brought
    STARTING = "starting"  # the engine loads, compiles, warms up
    READY = "ready"  # health answered and one real token came
    ASLEEP = "asleep"
    STOPPED = "stopped"  # gone on order; final for this generation
    FAILED = "failed"  # gone or broken without an order; see reason, exit_code, log_tail


class CacheKind(StrEnum):
    IMAGE = "image"
    WEIGHTS = "weights"


class CacheState(StrEnum):
    ABSENT = "absent"
    FETCHING = "fetching"
    PRESENT = "present"
    FAILED = "failed"


class ReadKind(StrEnum):
    LOG_TAIL = "log_tail"


class Rung(StrEnum):
    """From where a replica came to serve; the further down, the longer it takes."""

    ASLEEP = "asleep"  # woken
    CACHED = "cached"  # image (or engine) and weights were on the host
    COLD = "cold"  # something had to be brought
