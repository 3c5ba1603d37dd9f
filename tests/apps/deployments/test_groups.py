"""A replica over several hosts: placed with all members or none, and it ends as one."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.deployments.reconcile import groups, steps
from apps.deployments.reconcile.placement import NotPlaced, Placed
from apps.deployments.reconcile.plan import plan
from apps.deployments.reconcile.snapshot import (
    Constraints,
    SeenGpu,
    SeenHost,
    SeenMember,
    SeenReplica,
    WantedRevision,
)
from apps.deployments.reconcile.summary import summarize
from apps.deployments.states import DeploymentPhase, DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState
from tests.apps.deployments import snapshots
from tests.apps.deployments.snapshots import GIB, NOW


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


def revision(gpus: int = 2, hosts: int = 2) -> WantedRevision:
    return snapshots.revision(
        device="cuda", gpus=gpus, bytes_per_gpu=70 * GIB, memory_bytes=0, hosts=hosts
    )


def placed(hosts, size=2, gpus=2, **constraints) -> Placed | NotPlaced:
    return groups.place(revision(gpus, size), Constraints(**constraints), hosts, {}, 3)[0]


def test_takes_one_place_on_each_of_so_many_hosts():
    found = placed([machine(n, [80, 80, 80]) for n in range(3)])

    assert [member.host_name for member in found.places] == ["host-0", "host-1"]
    assert found.gpu_uuids == ("GPU-0-0", "GPU-0-1")
    assert found.why == (
        "host-0, host-1 hold it together with 2 GPUs each, and host-0 serves; 3 hosts fitted"
    )


def test_is_of_one_kind_on_all_hosts():
    hosts = [machine(0, [80] * 2), machine(1, [80] * 2, "a100"), machine(2, [80] * 2, "a100")]

    found = placed(hosts)

    assert [member.host_name for member in found.places] == ["host-1", "host-2"]


def test_is_made_of_hosts_that_reach_each_other():
    hosts = [machine(0, [80] * 2, meets="boot-1"), machine(1, [80] * 2), machine(2, [80] * 2)]

    assert [member.host_name for member in placed(hosts).places] == ["host-1", "host-2"]
    assert isinstance(placed(hosts[:2]), NotPlaced)


def test_leaves_out_hosts_whose_agents_know_no_address_for_it():
    found = placed([machine(0, [80] * 2, meets=None), machine(1, [80] * 2)])

    assert found.refused == {
        "host-0": "its agent tells no address for groups",
        "host-1": "has room, and too few others have",
    }


def test_gives_nothing_when_one_member_finds_no_host():
    found = placed(
        [machine(0, [80, 80]), machine(1, [80, 10]), machine(2, [80] * 2, cordoned=True)]
    )

    assert isinstance(found, NotPlaced)
    assert found.why == "no 2 hosts that reach each other have 2 free GPUs of one kind each"
    assert found.refused == {
        "host-0": "has room, and too few others have",
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
    uuids = [uuid for member in found.places for uuid in member.gpu_uuids]
    assert len({member.host_id for member in found.places}) == size
    assert len(set(uuids)) == len(uuids) == size * gpus
    assert len({free[uuid].kind for uuid in uuids}) == 1


ORDERS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=8)
"""Hosts and GPUs on each, of one replica after the other."""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), ORDERS)
def test_books_no_gpu_twice_with_single_replicas_in_between(fleet, orders):
    hosts = [machine(number, [80] * gpus) for number, gpus in enumerate(fleet)]
    given: list[str] = []
    for size, gpus in orders:
        found = placed(hosts, size=size, gpus=gpus)
        if isinstance(found, NotPlaced):
            continue
        places = found.places
        assert [len(place.gpu_uuids) for place in places] == [gpus] * size
        given += [uuid for place in places for uuid in place.gpu_uuids]
        hosts = [
            replace(host, gpus=tuple(replace(g, taken=g.uuid in given) for g in host.gpus))
            for host in hosts
        ]

    assert len(given) == len(set(given))


def member(rank: int, **changes) -> SeenMember:
    values = {
        "rank": rank,
        "host_id": UUID(int=rank),
        "host": f"host-{rank}",
        "host_state": HostState.READY,
        "phase": ReplicaPhase.READY,
    }
    return SeenMember(**values | changes)


def group(*members: SeenMember, **changes) -> SeenReplica:
    values = {"host_id": UUID(int=0), "is_group": True, "members": members} | changes
    return snapshots.replica(**values)


def steps_for(*replicas: SeenReplica, now=NOW, **changes) -> list:
    hosts = tuple(machine(n, [80, 80]) for n in range(2))
    seen = snapshots.snapshot(*replicas, revision=revision(), hosts=hosts, **changes)
    return plan(seen, now)


class TestEnd:
    def test_a_group_whose_members_run_is_left_alone(self):
        assert steps_for(group(member(0), member(1))) == []

    def test_a_member_that_fails_ends_all_and_another_group_comes_after_a_rest(self):
        failed = member(1, phase=ReplicaPhase.FAILED, reason="killed")
        whole = group(member(0), failed)

        (step,) = steps_for(whole)

        why = "rank 1 on host-1 failed: killed"
        assert step == steps.ReplaceGroup(whole.id, why, 1, NOW + timedelta(seconds=5))

    def test_the_rest_grows_with_each_failure_in_a_row(self):
        whole = group(member(0), member(1), phase=ReplicaPhase.FAILED, failures=3, reason="oom")

        (step,) = steps_for(whole)

        assert step == steps.ReplaceGroup(whole.id, "oom", 3, NOW + timedelta(seconds=20))

    def test_a_host_that_is_lost_takes_all_with_it_and_another_group_comes_at_once(self):
        whole = group(member(0), member(1, host_state=HostState.LOST), host_state=HostState.READY)

        (step,) = steps_for(whole)

        assert step == steps.ReplaceGroup(whole.id, "host-1, which holds rank 1, is lost", 0, None)

    def test_a_silent_host_is_waited_for(self):
        assert steps_for(group(member(0), member(1, host_state=HostState.UNKNOWN))) == []

    def test_one_that_drains_is_not_waited_for_once_it_is_broken(self):
        failed = member(1, phase=ReplicaPhase.FAILED, reason="killed")
        leaving = group(
            member(0),
            failed,
            desired=DesiredReplica.DRAINED,
            phase=ReplicaPhase.DRAINING,
            in_flight=3,
        )

        found = steps_for(leaving, wanted=0)

        assert found == [steps.StopReplica(leaving.id, "rank 1 on host-1 failed: killed")]

    @pytest.mark.parametrize(
        ("state", "released", "expected"),
        [
            (HostState.READY, False, []),
            (HostState.LOST, False, [steps.ReleaseGroup]),
            (HostState.LOST, True, []),
        ],
        ids=["waits for its host", "gives back what is known", "waits for the lost host"],
    )
    def test_its_room_is_given_back_together(self, state, released, expected):
        gone = member(0, phase=ReplicaPhase.STOPPED)
        left = member(1, phase=ReplicaPhase.READY, host_state=state)
        whole = group(gone, left, desired=DesiredReplica.ABSENT, released=released)

        assert [type(step) for step in steps_for(whole, wanted=0)] == expected

    def test_it_is_over_when_all_hosts_have_said_so(self):
        gone = [member(rank, phase=ReplicaPhase.STOPPED) for rank in range(2)]
        whole = group(*gone, desired=DesiredReplica.ABSENT)

        assert steps_for(whole, wanted=0) == [steps.BuryGroup(whole.id)]


class TestSuccessor:
    def waiting(self, **changes) -> SeenReplica:
        values = {"host_id": None, "host_state": None, "failures": 1, "reason": "killed"}
        at = NOW + timedelta(seconds=5)
        return snapshots.replica(ReplicaPhase.PENDING, **values | {"retry_at": at} | changes)

    def test_is_placed_after_its_rest_and_not_before(self):
        waiting = self.waiting()

        (step,) = steps_for(waiting, now=NOW + timedelta(seconds=5))

        assert steps_for(waiting) == []
        assert isinstance(step, steps.PlaceReplica)
        assert [place.host_name for place in step.placed.places] == ["host-0", "host-1"]

    def test_counts_as_broken_while_it_rests(self):
        seen = snapshots.snapshot(self.waiting(failures=3), revision=revision())

        assert summarize(seen) == (DeploymentPhase.FAILED, "killed")


class TestScale:
    def test_one_group_is_placed_at_a_time(self):
        waiting = [
            snapshots.replica(ReplicaPhase.PENDING, host_id=None, host_state=None) for _ in range(2)
        ]

        found = [s for s in steps_for(*waiting, wanted=2) if isinstance(s, steps.PlaceReplica)]

        assert len(found) == 1

    def test_leaves_by_drain_as_one_replica(self):
        whole = group(member(0), member(1))

        (step,) = steps_for(whole, wanted=0)

        assert isinstance(step, steps.DrainReplica)

    def test_a_member_on_a_host_that_is_emptied_has_the_whole_replaced_first(self):
        whole = group(member(0), member(1), host_cordoned=True)

        (step,) = steps_for(whole)

        assert isinstance(step, steps.CreateReplica)
