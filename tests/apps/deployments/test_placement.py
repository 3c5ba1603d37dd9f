"""Placement: filter, score, pick."""

import pytest

from apps.deployments.reconcile.placement import NotPlaced, Placed, place
from apps.deployments.reconcile.snapshot import Constraints
from apps.fleet.states import HostState
from tests.apps.deployments.snapshots import GIB, gpu, host, revision

ON_GPUS = revision(device="cuda", gpus=2, bytes_per_gpu=40 * GIB, memory_bytes=0)


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
