"""Placement of a replica over several hosts: all members or none, on hosts of their own."""

from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from apps.deployments.reconcile.groups import PlacedGroup, place_group
from apps.deployments.reconcile.placement import NotPlaced
from apps.deployments.reconcile.snapshot import Constraints, SeenGpu, SeenHost, WantedRevision
from apps.fleet.states import HostState

GIB = 1024**3


def machine(number: int, free_gib: list[int], kind: str = "h100", **changes) -> SeenHost:
    gpus = tuple(
        SeenGpu(
            uuid=f"GPU-{number}-{index}",
            free_bytes=free * GIB,
            taken=free == 0,
            total_bytes=80 * GIB,
            kind=kind,
        )
        for index, free in enumerate(free_gib)
    )
    values = {"state": HostState.READY, "cordoned": False, "free_memory_bytes": 0} | changes
    return SeenHost(id=UUID(int=number), name=f"host-{number}", gpus=gpus, **values)


def revision(gpus: int = 2) -> WantedRevision:
    return WantedRevision(
        id=UUID(int=99),
        number=1,
        device="cuda",
        gpus=gpus,
        bytes_per_gpu=70 * GIB,
        memory_bytes=0,
    )


def placed(hosts, size=2, gpus=2, **constraints) -> PlacedGroup | NotPlaced:
    return place_group(revision(gpus), Constraints(**constraints), hosts, {}, size)


def test_takes_one_place_on_each_of_so_many_hosts():
    found = placed([machine(n, [80, 80, 80]) for n in range(3)])

    assert [member.host_name for member in found.members] == ["host-0", "host-1"]
    assert found.members[0].gpu_uuids == ("GPU-0-0", "GPU-0-1")
    assert found.why == "host-0, host-1 have 2 free GPUs of kind h100 each; 3 hosts fitted"


def test_is_of_one_kind_on_all_hosts():
    hosts = [machine(0, [80] * 2), machine(1, [80] * 2, "a100"), machine(2, [80] * 2, "a100")]

    found = placed(hosts)

    assert (found.gpu_kind, len(found.members)) == ("a100", 2)


def test_gives_nothing_when_one_member_finds_no_host():
    found = placed(
        [machine(0, [80, 80]), machine(1, [80, 10]), machine(2, [80] * 2, cordoned=True)]
    )

    assert isinstance(found, NotPlaced)
    assert found.why == "no 2 hosts have 2 free GPUs of one kind each"
    assert found.refused == {
        "host-1": "needs 2 GPUs with 70.0 GiB free each, has 1",
        "host-2": "is cordoned",
    }


def test_takes_the_kind_that_the_order_names():
    assert isinstance(placed([machine(n, [80, 80]) for n in range(2)], gpu_kind="b200"), NotPlaced)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([0, 40, 70, 80]), max_size=8),
            st.sampled_from(["h100", "a100"]),
        ),
        max_size=8,
    ),
    st.integers(2, 4),
    st.integers(1, 4),
)
def test_books_no_gpu_twice_and_all_or_none(fleet, size, gpus):
    hosts = [machine(number, free, kind) for number, (free, kind) in enumerate(fleet)]

    found = placed(hosts, size=size, gpus=gpus)

    if isinstance(found, NotPlaced):
        able = [h for h in hosts if sum(g.free_bytes >= 70 * GIB for g in h.gpus) >= gpus]
        kinds = [h.gpus[0].kind for h in able]
        assert all(kinds.count(kind) < size for kind in kinds)
        return
    free = {g.uuid: g for h in hosts for g in h.gpus if g.free_bytes >= 70 * GIB}
    uuids = [uuid for member in found.members for uuid in member.gpu_uuids]
    assert len({member.host_id for member in found.members}) == size
    assert len(set(uuids)) == len(uuids) == size * gpus
    assert {free[uuid].kind for uuid in uuids} == {found.gpu_kind}
