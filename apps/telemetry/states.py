"""What has a time series, and the widths of its buckets."""

from enum import IntEnum, StrEnum


class Subject(StrEnum):
    """What a series is about."""

    DEPLOYMENT = "deployment"
    REPLICA = "replica"
    HOST = "host"


class Step(IntEnum):
    """Width of a bucket in seconds; each width divides the next."""

    FINE = 10
    MINUTE = 60
    HOUR = 3600


KEEP_SECONDS = {Step.FINE: 3 * 3600, Step.MINUTE: 3 * 86_400, Step.HOUR: 400 * 86_400}
"""How long buckets of each width are kept."""
