"""Which revision of a deployment takes a request while a rollout splits its traffic. Pure.

Deterministic: a session, or a request without one, is a point in [0, 1) by its hash, and the
shares lie side by side on it. A retry finds the same revision, a session stays with its own, and a
share that grows keeps all it had. When no replica of that revision is free, another that has a
share takes the request: a split never makes a request wait. Called by `gateway.fleet` and
`gateway.exchange`.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

from gateway.wire import ReplicaRoute, RouteState, Share

_POINTS = float(2**64)


class _Placed(Protocol):
    @property
    def route(self) -> ReplicaRoute: ...


def point(name: str) -> float:
    """Return the place of `name` in [0, 1): the same in every process."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) / _POINTS


def revision_for(shares: Sequence[Share], key_id: str, name: str) -> int:
    """Return the revision for a request with this key; `name` is its session, else its id."""
    for share in shares:
        if key_id in share.keys:
            return share.revision
    left = point(name)
    for share in shares:
        left -= share.weight_ratio
        if left < 0:
            return share.revision
    return shares[-1].revision


def with_share[P: _Placed](shares: Sequence[Share], replicas: Sequence[P]) -> Sequence[P]:
    """Return the replicas whose revision takes requests; all if none of those is there."""
    taking = {share.revision for share in shares if share.weight_ratio > 0 or share.keys}
    found = [r for r in replicas if r.route.revision in taking]
    return found or replicas


def narrow[P: _Placed](
    shares: Sequence[Share], free: Sequence[P], key_id: str, name: str
) -> Sequence[P]:
    """Return those of `free` that run the revision for this request; all if none does."""
    revision = revision_for(shares, key_id, name)
    found = [r for r in free if r.route.revision == revision]
    return found or free


def ready_of[P: _Placed](revision: int, replicas: Sequence[P]) -> Sequence[P]:
    """Return the ready replicas of `revision`."""
    return [
        r for r in replicas if r.route.revision == revision and r.route.state is RouteState.READY
    ]
