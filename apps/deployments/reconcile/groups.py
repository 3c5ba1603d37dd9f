"""Choose hosts for one replica that takes several: all of them or none. Pure.

Each host gives as many GPUs of one kind, the same kind everywhere; what speaks for a host is what
speaks for it in `placement`, and the hosts with the highest scores are taken. Rank 0, whose address
the others are given and which alone would serve, is the best of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from apps.deployments.reconcile.placement import NotPlaced, Placed, ranking
from apps.deployments.reconcile.snapshot import Constraints, SeenHost, WantedRevision


@dataclass(frozen=True, kw_only=True)
class PlacedGroup:
    members: tuple[Placed, ...]
    """By rank, each on a host of its own."""
    gpu_kind: str
    why: str


def place_group(
    revision: WantedRevision,
    constraints: Constraints,
    hosts: Sequence[SeenHost],
    replicas_per_host: dict[UUID, int],
    size: int,
) -> PlacedGroup | NotPlaced:
    """Return where the `size` members of a replica go; `revision.gpus` is what each of them takes.

    Of several kinds of GPU the one whose hosts score highest together.
    """
    kinds = sorted({gpu.kind for host in hosts for gpu in host.gpus if not gpu.is_slice})
    found: list[PlacedGroup] = []
    refused: dict[str, str] = {}
    for kind in kinds:
        if constraints.gpu_kind in ("", kind):
            only = replace(constraints, gpu_kind=kind)
            ranked, why_not = ranking(revision, only, hosts, replicas_per_host)
            refused |= why_not
            if len(ranked) >= size:
                found.append(_group(kind, ranked[:size], len(ranked)))
    if not found:
        each = f"{revision.gpus} free GPUs of one kind"
        why = f"no {size} hosts have {each} each"
        return NotPlaced(why=why, refused=refused)
    return max(found, key=lambda group: sum(m.candidates[0].score for m in group.members))


def _group(kind: str, members: Sequence[Placed], fitted: int) -> PlacedGroup:
    names = ", ".join(member.host_name for member in members)
    gpus = len(members[0].gpu_uuids)
    return PlacedGroup(
        members=tuple(members),
        gpu_kind=kind,
        why=f"{names} have {gpus} free GPUs of kind {kind} each; {fitted} hosts fitted",
    )
