"""States of a host and of what it caches."""

from enum import StrEnum


class HostState(StrEnum):
    """Whether a host answers. Moved by the controller's sweep and by the host's own reports.

    ready -> unknown (40 s silent) -> lost (5 min silent) -> ready
    """

    READY = "ready"  # its agent reports
    UNKNOWN = "unknown"  # silent; its replicas may well serve on
    LOST = "lost"  # silent so long that its replicas are replaced elsewhere


LEGAL_MOVES: dict[HostState, frozenset[HostState]] = {
    HostState.READY: frozenset({HostState.UNKNOWN}),
    HostState.UNKNOWN: frozenset({HostState.READY, HostState.LOST}),
    HostState.LOST: frozenset({HostState.READY}),
}

LABEL_PART = r"\A[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?\Z"
"""What keys and values of labels and taints are made of, as a regular expression."""
TAINTS_LIMIT = 32
"""Taints of one host."""
UNKNOWN_AFTER_SECONDS = 40.0
LOST_AFTER_SECONDS = 300.0


def can_move(old: HostState, new: HostState) -> bool:
    """Return whether a host may go from `old` to `new`."""
    return new in LEGAL_MOVES[old]
