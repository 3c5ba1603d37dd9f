"""Choose hosts for replicas that take several, and decide when such a replica is over. Pure.

All members or none: each host gives as many GPUs of one kind, the same kind everywhere, and all of
them reach each other. What speaks for a host is what speaks for it in `placement`; the hosts with
the highest scores are taken. Rank 0, whose address the others are given and which alone serves, is
the best of them. A group ends as one: when a member fails or its host is lost, no other serves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from uuid import UUID

from apps.deployments.reconcile.placement import NotPlaced, Placed, place_many, ranking
from apps.deployments.reconcile.snapshot import Constraints, SeenHost, SeenReplica, WantedRevision
from apps.deployments.reconcile.steps import BuryGroup, ReleaseGroup, Step
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState


def place(
    revision: WantedRevision,
    constraints: Constraints,
    hosts: Sequence[SeenHost],
    replicas_per_host: dict[UUID, int],
    wanted: int = 1,
) -> list[Placed | NotPlaced]:
    """Return where each of `wanted` replicas goes; the first that finds no place ends the list.

    Of those over several hosts one at a time: the next is placed on what is left once it is booked.
    """
    if revision.hosts > 1:
        return [place_group(revision, constraints, hosts, replicas_per_host)]
    return place_many(revision, constraints, hosts, replicas_per_host, wanted)


def place_group(
    revision: WantedRevision,
    constraints: Constraints,
    hosts: Sequence[SeenHost],
    replicas_per_host: dict[UUID, int],
) -> Placed | NotPlaced:
    """Return where the members of one replica go, as the head's place with `others`.

    Of several kinds of GPU the one whose hosts score highest together.
    """
    able = [host for host in hosts if host.meets is not None]
    refused = {host.name: "its agent tells no address for groups" for host in hosts}
    kinds = sorted({gpu.kind for host in able for gpu in host.gpus if not gpu.is_slice})
    found: list[list[Placed]] = []
    for kind, meets in product(kinds, sorted({host.meets or "" for host in able})):
        if constraints.gpu_kind in ("", kind):
            only = replace(constraints, gpu_kind=kind)
            near = [host for host in able if host.meets == meets]
            ranked, why_not = ranking(revision, only, near, replicas_per_host)
            refused |= why_not | dict.fromkeys((p.host_name for p in ranked), "")
            if len(ranked) >= revision.hosts:
                found.append(ranked[: revision.hosts])
    if not found:
        each = f"{revision.gpus} free GPUs of one kind"
        lonely = "has room, and too few others have"
        return NotPlaced(
            why=f"no {revision.hosts} hosts that reach each other have {each} each",
            refused={name: why or lonely for name, why in refused.items()},
        )
    best = max(found, key=lambda members: sum(m.candidates[0].score for m in members))
    return _group(best, {name: why for name, why in refused.items() if why})


def _group(members: Sequence[Placed], refused: dict[str, str]) -> Placed:
    head, *others = members
    names = ", ".join(member.host_name for member in members)
    gpus = f"{len(head.gpu_uuids)} GPU{'s' * (len(head.gpu_uuids) != 1)}"
    return replace(
        head,
        why=f"{names} hold it together with {gpus} each, and {head.host_name} serves; "
        f"{head.fitted} hosts fitted",
        candidates=tuple(member.candidates[0] for member in members),
        refused=refused,
        others=tuple(others),
    )


def why_broken(replica: SeenReplica) -> str:
    """Return why a replica over several hosts cannot serve (any more), empty if it can."""
    if not replica.is_group:
        return ""
    for member in replica.members:
        if member.host_state is HostState.LOST:
            return f"{member.host}, which holds rank {member.rank}, is lost"
    if replica.phase is ReplicaPhase.FAILED:
        return replica.reason or "its head failed"
    for member in replica.members:
        if member.phase is ReplicaPhase.FAILED:
            return f"rank {member.rank} on {member.host} failed: {member.reason}"
    return ""


def end(replicas: Iterable[SeenReplica]) -> list[Step]:
    """Return the last steps of groups that were ordered gone: their rooms free, then forgotten."""
    steps: list[Step] = []
    for replica in replicas:
        if not replica.is_group or replica.desired is not DesiredReplica.ABSENT:
            continue
        left = [m for m in replica.members if m.phase is not ReplicaPhase.STOPPED]
        if not left:
            steps.append(BuryGroup(replica.id))
        elif not replica.released and all(m.host_state is HostState.LOST for m in left):
            steps.append(ReleaseGroup(replica.id))
    return steps
