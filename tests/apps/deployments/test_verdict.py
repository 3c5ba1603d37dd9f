"""The statistics of a canary: what is called worse, and how seldom wrongly."""

import random

import pytest

from apps.deployments.rollout_policy import CanaryPolicy
from apps.deployments.verdict import (
    Tally,
    bin_of,
    due_look,
    fisher_p,
    judge,
    mann_whitney_p,
    median,
)

POLICY = CanaryPolicy()


def bins(values) -> dict[int, int]:
    found: dict[int, int] = {}
    for value in values:
        found[bin_of(value)] = found.get(bin_of(value), 0) + 1
    return found


def latencies(rng: random.Random, count: int, slower: float = 1.0) -> dict[int, int]:
    """Skewed as latencies are."""
    return bins(slower * rng.lognormvariate(-2.0, 0.5) for _ in range(count))


def tally(rng: random.Random, count: int, *, slower: float = 1.0, failed: int = 0) -> Tally:
    times = {name: latencies(rng, count, slower) for name in ("ttft", "itl", "cost")}
    return Tally(requests=count, failed=failed, **times)


class TestTests:
    def test_fishers_test_agrees_with_the_published_tea_tasting(self):
        # Fisher 1935: 3 of 4 cups told right, one-sided p = 17/70.
        assert fisher_p(1, 4, 3, 4) == pytest.approx(17 / 70)

    def test_mann_whitney_agrees_with_a_worked_example(self):
        # By hand: 3,4,5,6,6 against 1,2,3,3,4 gives U = 22.5; ties of 3, 2 and 2 make the variance
        # 25/12 * (11 - 36/90) = 22.083, so z = (22.5 - 12.5 - 0.5) / 4.6993 = 2.0216.
        live = {1: 1, 2: 1, 3: 2, 4: 1}
        candidate = {3: 1, 4: 1, 5: 1, 6: 2}

        assert mann_whitney_p(live, candidate) == pytest.approx(0.02161, abs=1e-5)

    def test_equal_values_say_nothing(self):
        assert mann_whitney_p({3: 50}, {3: 50}) == 1.0

    def test_the_median_of_bins_is_within_a_bin(self):
        assert median(bins([0.1] * 40 + [0.2] * 41 + [0.4] * 20)) == pytest.approx(0.2, rel=0.03)
        assert median({}) is None


class TestJudge:
    def test_passes_what_is_as_good_only_at_the_last_look(self):
        rng = random.Random(1)
        live, candidate = tally(rng, 2000), tally(rng, 200)

        assert not judge(live, candidate, 1, POLICY).has_passed
        assert judge(live, candidate, 3, POLICY).has_passed

    def test_fails_what_is_half_as_fast_at_the_first_look(self):
        rng = random.Random(2)

        verdict = judge(tally(rng, 450), tally(rng, 50, slower=2.0), 1, POLICY)

        assert verdict.is_worse
        assert "times live's" in verdict.says
        assert "50 requests against 450" in verdict.says

    def test_tolerates_ten_percent(self):
        rng = random.Random(3)

        assert not judge(tally(rng, 2000), tally(rng, 200, slower=1.1), 3, POLICY).is_worse

    def test_fails_what_fails_requests(self):
        rng = random.Random(4)

        verdict = judge(tally(rng, 450), tally(rng, 50, failed=6), 1, POLICY)

        assert [m.name for m in verdict.measures if m.is_worse] == ["errors"]

    def test_one_failure_is_no_pattern(self):
        rng = random.Random(5)

        assert not judge(tally(rng, 450), tally(rng, 50, failed=1), 1, POLICY).is_worse

    def test_a_measure_without_values_is_not_judged(self):
        live = Tally(requests=500, ttft={1: 500})

        verdict = judge(live, Tally(requests=200, ttft={1: 200}), 3, POLICY)

        assert {m.name: m.p_value is None for m in verdict.measures}["itl"]
        assert verdict.has_passed

    def test_calls_the_same_worse_in_less_than_one_of_twenty_rollouts(self):
        rng = random.Random(6)
        strict = CanaryPolicy(max_ttft_ratio=1.0, max_itl_ratio=1.0, max_cost_ratio=1.0)
        wrong = 0
        for _ in range(200):
            looks = (judge(tally(rng, 9 * n), tally(rng, n), 1, strict) for n in (50, 100, 200))
            wrong += any(verdict.is_worse for verdict in looks)

        assert wrong <= 10


class TestLooks:
    @pytest.mark.parametrize(
        ("requests", "done", "look"),
        [(49, 0, 0), (50, 0, 1), (60, 1, 0), (100, 1, 2), (200, 0, 3), (500, 3, 0)],
    )
    def test_come_at_a_quarter_half_and_all(self, requests, done, look):
        live = Tally(requests=5000)

        assert due_look(live, Tally(requests=requests), done, POLICY) == look

    def test_need_as_many_requests_of_live(self):
        assert due_look(Tally(requests=10), Tally(requests=500), 0, POLICY) == 0
