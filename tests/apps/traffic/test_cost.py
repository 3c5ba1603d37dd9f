"""Requests' costs and shares of hosts."""

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.fleet.prices import share_of_host
from apps.traffic.cost import Served, split, union

RATE = Decimal("0.001")

intervals = st.tuples(st.floats(0, 1000), st.floats(0, 100)).map(lambda p: (p[0], p[0] + p[1]))


def served(id_="a", interval=(0.0, 10.0), prompt=100, cached=0, output=50) -> Served:
    return Served(id_, interval, prompt, cached, output)


class TestSplit:
    def test_a_lone_request_pays_for_all_its_time(self):
        assert split([served()], [], RATE) == {"a": Decimal("0.010")}

    def test_requests_side_by_side_pay_for_the_time_once(self):
        costs = split([served("a"), served("b")], [], RATE)

        assert costs == {"a": Decimal("0.005"), "b": Decimal("0.005")}

    def test_time_that_was_charged_before_is_free(self):
        costs = split([served(interval=(0.0, 10.0))], [(0.0, 4.0), (9.0, 20.0)], RATE)

        assert costs == {"a": Decimal("0.005")}

    def test_output_weighs_more_than_prompt_and_cached_prompt_least(self):
        costs = split(
            [
                served("prompt", prompt=1000, output=0),
                served("output", prompt=0, output=1000),
                served("cached", prompt=1000, cached=1000, output=0),
            ],
            [],
            RATE,
        )

        assert costs["output"] > costs["prompt"] > costs["cached"] > 0

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
    @given(st.lists(intervals, max_size=8), st.lists(intervals, min_size=1, max_size=8))
    def test_batches_in_any_cut_add_up_to_the_busy_time(self, known, new):
        requests = [served(str(n), interval) for n, interval in enumerate(new)]

        costs = split(requests, known, Decimal(1))

        busy = union([*known, *new]) - union(known)
        assert float(sum(costs.values())) == pytest.approx(max(0.0, busy), abs=1e-5)
        assert min(costs.values()) >= 0


class TestShare:
    def test_is_by_gpus_where_there_are_some(self):
        share = share_of_host(gpus=2, host_gpus=8, memory_bytes=9, host_memory_bytes=10)

        assert share == Decimal("0.25")

    def test_is_by_memory_on_a_cpu_host_and_never_above_one(self):
        assert share_of_host(gpus=0, host_gpus=0, memory_bytes=1, host_memory_bytes=4) == Decimal(
            "0.25"
        )
        assert share_of_host(gpus=0, host_gpus=0, memory_bytes=9, host_memory_bytes=4) == 1

    def test_is_nothing_of_a_host_that_says_nothing(self):
        assert share_of_host(gpus=0, host_gpus=0, memory_bytes=9, host_memory_bytes=0) == 0
