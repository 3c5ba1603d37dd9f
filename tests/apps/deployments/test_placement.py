"""Placement: filter, score, pick."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.deployments.reconcile.placement import NotPlaced, Placed, place, place_many
from apps.deployments.reconcile.snapshot import Constraints, Taint, Toleration
from apps.fleet.states import HostState
from tests.apps.deployments.snapshots import GIB, gpu, host, revision

ON_GPUS = revision(device="cuda", gpus=2, bytes_per_gpu=40 * GIB, memory_bytes=0)


_numbers = itertools.count(1000)

gpus = st.builds(
    lambda free, taken, shared, kind, group: gpu(
        next(_numbers), free, taken=taken, shared=shared, kind=kind, nvlink_group=group
    ),
    st.integers(0, 80),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["h100", "l4"]),
    st.sampled_from([None, 0, 1]),
)
fleets = st.lists(
    st.builds(
        lambda gpus, memory: host(
            f"host-{next(_numbers)}", gpus=tuple(gpus), free_memory_bytes=memory * GIB
        ),
        st.lists(gpus, max_size=8),
        st.integers(0, 64),
    ),
    max_size=6,
)
wishes = st.builds(
    lambda gpus, size, shared: revision(
        gpus=1 if shared else gpus,
        bytes_per_gpu=size * GIB if gpus or shared else 0,
        shared=shared,
    ),
    st.sampled_from([0, 1, 2, 4]),
    st.integers(1, 70),
    st.booleans(),
)


def found(hosts, wanted=None, constraints=None, counts=None) -> Placed:
    result = place(wanted or revision(), constraints or Constraints(), hosts, counts or {})
    assert isinstance(result, Placed)
    return result


class TestPlace:
    def test_takes_the_host_with_the_most_memory_left(self):
        roomy = host("roomy", free_memory_bytes=64 * GIB)

        assert found([host(), roomy]).host_name == "roomy"

    def test_spreads_a_deployment_before_it_looks_at_room(self):
        roomy = host("roomy", free_memory_bytes=64 * GIB)

        assert found([host(), roomy], counts={roomy.id: 1}).host_name == "alpha"

    def test_reserves_memory_on_a_cpu_host(self):
        placed = found([host()])

        assert (placed.gpu_uuids, placed.memory_bytes) == ((), 2 * GIB)

    def test_takes_the_tightest_gpus_that_fit(self):
        machine = host(gpus=(gpu(1, 80), gpu(2, 48), gpu(3, 24), gpu(4, 44)))

        placed = found([machine], ON_GPUS)

        assert placed.gpu_uuids == ("GPU-4", "GPU-2")
        assert placed.memory_bytes == 40 * GIB

    def test_keeps_to_the_host_and_labels_of_the_order(self):
        labelled = host("beta", labels={"zone": "b"}, free_memory_bytes=3 * GIB)

        assert found([host(), labelled], constraints=Constraints(host="beta")).host_name == "beta"
        wish = Constraints(labels={"zone": "b"})
        assert found([host(), labelled], constraints=wish).host_name == "beta"

    @pytest.mark.parametrize(
        ("machine", "why"),
        [
            (host(state=HostState.UNKNOWN), "is unknown"),
            (host(cordoned=True), "is cordoned"),
            (host(free_memory_bytes=GIB), "needs 1.0 GiB more memory"),
        ],
        ids=["silent", "cordoned", "full"],
    )
    def test_says_why_a_cpu_host_is_refused(self, machine, why):
        result = place(revision(), Constraints(), [machine], {})

        assert isinstance(result, NotPlaced)
        assert result.refused == {"alpha": why}

    @pytest.mark.parametrize(
        ("gpus", "why"),
        [
            ((), "has no GPU"),
            ((gpu(1), gpu(2, taken=True)), "needs 2 GPUs with 40.0 GiB free each, has 1"),
            ((gpu(1), gpu(2, 39)), "needs 2 GPUs with 40.0 GiB free each, has 1"),
        ],
        ids=["none", "taken", "small"],
    )
    def test_says_why_gpus_do_not_do(self, gpus, why):
        result = place(ON_GPUS, Constraints(), [host(gpus=gpus)], {})

        assert isinstance(result, NotPlaced)
        assert result.refused == {"alpha": why}

    def test_says_that_no_host_is_enrolled(self):
        result = place(revision(), Constraints(), [], {})

        assert isinstance(result, NotPlaced)
        assert result.why == "no host is enrolled"


class TestScore:
    def test_prefers_the_host_that_has_the_weights(self):
        cached = host("zulu", cached=frozenset({"w"}))

        placed = found([host(), cached], revision(cache_keys=frozenset({"w"})))

        assert placed.host_name == "zulu"
        assert placed.candidates[0].terms["cached"] == 1

    def test_does_not_pile_up_on_the_host_that_has_the_weights(self):
        cached = host("zulu", cached=frozenset({"w"}))

        placed = found(
            [host(), cached], revision(cache_keys=frozenset({"w"})), counts={cached.id: 1}
        )

        assert placed.host_name == "alpha"

    def test_fills_the_fullest_host_first_when_the_order_packs(self):
        fuller = host("zulu", free_memory_bytes=4 * GIB, memory_bytes=32 * GIB)
        empty = host(memory_bytes=32 * GIB, free_memory_bytes=32 * GIB)

        packed = found([empty, fuller], constraints=Constraints(strategy="binpack"))

        assert packed.host_name == "zulu"

    def test_takes_the_cheaper_of_equal_hosts(self):
        dear = host(price_per_hour_usd=4.0)
        cheap = host("zulu", price_per_hour_usd=1.0)

        assert found([dear, cheap]).host_name == "zulu"

    def test_tells_the_best_candidates_with_what_spoke_for_them(self):
        placed = found([host(), host("beta", cordoned=True), host("gamma")])

        assert [c.host for c in placed.candidates] == ["alpha", "gamma"]
        assert placed.refused == {"beta": "is cordoned"}
        assert placed.fitted == 2


class TestTaints:
    BATCH = Taint(key="team", value="batch")

    def test_keeps_away_orders_that_do_not_tolerate_one(self):
        result = place(revision(), Constraints(), [host(taints=(self.BATCH,))], {})

        why = "has the taint team=batch, which the order does not tolerate"
        assert result.refused == {"alpha": why}

    @pytest.mark.parametrize("value", ["batch", None])
    def test_lets_in_orders_that_do(self, value):
        wish = Constraints(tolerations=(Toleration(key="team", value=value),))

        assert found([host(taints=(self.BATCH,))], constraints=wish).host_name == "alpha"

    def test_avoids_a_host_as_long_as_there_is_another(self):
        avoided = host(taints=(Taint(key="old", effect="avoid"),))
        other = host("zulu", free_memory_bytes=3 * GIB)

        assert found([avoided, other], counts={other.id: 3}).host_name == "zulu"
        assert found([avoided]).host_name == "alpha"


class TestGpus:
    def test_puts_a_group_on_linked_gpus(self):
        links = {1: 0, 2: 1, 3: 0, 4: 1}
        machine = host(gpus=tuple(gpu(n, 80 - n, nvlink_group=g) for n, g in links.items()))

        placed = found([machine], ON_GPUS)

        assert placed.gpu_uuids == ("GPU-3", "GPU-1")
        assert placed.candidates[0].terms["nvlink"] == 1

    def test_prefers_the_host_whose_gpus_are_linked(self):
        loose = host(gpus=(gpu(1), gpu(2)))
        linked = host("zulu", gpus=(gpu(3, nvlink_group=0), gpu(4, nvlink_group=0)))

        assert found([loose, linked], ON_GPUS).host_name == "zulu"

    def test_never_mixes_kinds_in_a_group(self):
        machine = host(gpus=(gpu(1, kind="h100"), gpu(2, kind="l40s")))

        result = place(ON_GPUS, Constraints(), [machine], {})

        assert result.refused == {
            "alpha": "needs 2 GPUs of one kind with 40.0 GiB free each, has 2"
        }

    def test_takes_only_the_kind_that_the_order_names(self):
        machines = [host(gpus=(gpu(1, kind="h100"),)), host("zulu", gpus=(gpu(2, kind="l4"),))]
        one = revision(device="cuda", gpus=1, bytes_per_gpu=20 * GIB, memory_bytes=0)

        placed = found(machines, one, Constraints(gpu_kind="l4"))

        assert placed.host_name == "zulu"
        assert placed.refused == {"alpha": "has no GPU of kind l4"}

    def test_books_the_share_that_the_engine_takes_of_a_larger_gpu(self):
        machine = host(gpus=(gpu(1, 80, total_bytes=80 * GIB),))
        one = revision(gpus=1, bytes_per_gpu=20 * GIB, gpu_memory_ratio=0.5)

        assert found([machine], one).memory_bytes == 40 * GIB

    def test_serves_one_replica_on_a_mig_slice_and_no_group(self):
        sliced = host(gpus=(gpu(1, is_slice=True), gpu(2, is_slice=True)))
        one = revision(gpus=1, bytes_per_gpu=20 * GIB)

        assert found([sliced], one).gpu_uuids == ("GPU-1",)
        assert isinstance(place(ON_GPUS, Constraints(), [sliced], {}), NotPlaced)


class TestFractions:
    HALF = revision(gpus=1, bytes_per_gpu=40 * GIB, shared=True)

    def test_two_halves_share_a_gpu(self):
        places = place_many(self.HALF, Constraints(), [host(gpus=(gpu(1),))], {}, 3)

        assert [p.gpu_uuids for p in places[:2]] == [("GPU-1",), ("GPU-1",)]
        assert isinstance(places[2], NotPlaced)

    def test_a_shared_gpu_is_not_given_whole(self):
        whole = revision(gpus=1, bytes_per_gpu=20 * GIB)

        result = place(whole, Constraints(), [host(gpus=(gpu(1, shared=True),))], {})

        assert isinstance(result, NotPlaced)


class TestMany:
    def test_places_as_many_as_there_is_room_for(self):
        machines = [host(f"h{n}", gpus=(gpu(2 * n), gpu(2 * n + 1))) for n in range(3)]

        places = place_many(ON_GPUS, Constraints(), machines, {}, 5)

        assert [type(p) for p in places] == [Placed, Placed, Placed, NotPlaced]

    @settings(max_examples=150, deadline=None)
    @given(fleets, wishes, st.integers(1, 40))
    def test_never_books_a_gpu_twice_or_more_than_there_is(self, machines, wish, wanted):
        places = place_many(wish, Constraints(), machines, {}, wanted)

        free = {g.uuid: g.free_bytes for m in machines for g in m.gpus if not g.taken}
        memory = {m.id: m.free_memory_bytes for m in machines}
        whole: list[str] = []
        for placed in places:
            if isinstance(placed, NotPlaced):
                break
            for uuid in placed.gpu_uuids:
                free[uuid] -= placed.memory_bytes
                whole += [uuid] if placed.whole else []
            if not placed.gpu_uuids:
                memory[placed.host_id] -= placed.memory_bytes
        assert min(free.values(), default=0) >= 0
        assert min(memory.values(), default=0) >= 0
        assert len(whole) == len(set(whole))

    @settings(max_examples=50, deadline=None)
    @given(fleets, wishes)
    def test_plans_the_same_from_the_same_fleet(self, machines, wish):
        first = place_many(wish, Constraints(), machines, {}, 10)

        assert place_many(wish, Constraints(), list(reversed(machines)), {}, 10) == first
