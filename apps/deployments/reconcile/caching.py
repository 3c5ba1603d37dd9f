"""Decide which hosts hold image and weights of a deployment ahead of time. Pure.

The cached rung: with both on the disk a start is a load, not a download. Hosts that hold a replica
have them anyway; beyond those so many hosts are kept as the policy asks for. Called by `prefetch`.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from apps.deployments.reconcile.snapshot import Constraints, SeenHost, WantedRevision
from apps.fleet.states import HostState


def hosts_to_cache(
    revision: WantedRevision,
    constraints: Constraints,
    hosts: Sequence[SeenHost],
    holding: Collection[UUID],
    count: int,
) -> list[UUID]:
    """Return `count` hosts beside `holding`, those first that have some of it and then the
    roomiest; fewer where no more would ever take it."""
    fitting = [
        host
        for host in hosts
        if host.id not in holding and not _refusal(revision, constraints, host)
    ]
    fitting.sort(key=lambda h: (-len(revision.cache_keys & h.cached), -h.free_memory_bytes, h.name))
    return [host.id for host in fitting[:count]]


def _refusal(revision: WantedRevision, constraints: Constraints, host: SeenHost) -> str:
    """Return why `host` would never take a replica; room may come, so it is not asked for."""
    if host.state is not HostState.READY or host.cordoned:
        return "is not to be used"
    if constraints.host and host.name != constraints.host:
        return f"the order names host {constraints.host}"
    if any(host.labels.get(key) != value for key, value in constraints.labels.items()):
        return "lacks a label"
    if any(t.effect == "refuse" and not constraints.tolerates(t) for t in host.taints):
        return "has a taint"
    if len(host.gpus) < revision.gpus:
        return "has too few GPUs"
    return ""
