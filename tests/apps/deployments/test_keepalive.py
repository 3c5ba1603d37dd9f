"""How long an idle model stays hot and asleep, and which one goes first."""

import pytest

from apps.deployments.reconcile import keepalive
from apps.deployments.reconcile.keepalive import KeepAlive, Rung


class TestRung:
    @pytest.mark.parametrize(
        ("idle_seconds", "found"),
        [(0, Rung.HOT), (599, Rung.HOT), (601, Rung.ASLEEP), (29_000, Rung.ASLEEP)],
    )
    def test_plain_times_are_those_of_the_policy(self, idle_seconds, found):
        assert keepalive.rung(KeepAlive(learns=False), 50.0, idle_seconds) is found

    def test_after_hot_and_asleep_only_its_files_are_kept(self):
        assert keepalive.rung(KeepAlive(learns=False), 1.0, 600 + 8 * 3600 + 1) is Rung.CACHED

    def test_one_asked_for_often_stays_hot_for_longer_up_to_three_times(self):
        keep = KeepAlive()

        times = [keepalive.hot_seconds(keep, recent) for recent in (1, 10, 100, 10_000)]

        assert times == sorted(times)
        assert times[0] == 300
        assert times[-1] == 1800

    def test_the_count_of_requests_fades(self):
        busy = keepalive.requests_recently(20.0, 60.0)
        after_a_day = keepalive.requests_recently(20.0, 86_400.0)

        assert busy == pytest.approx(20.8, abs=0.1)
        assert after_a_day == pytest.approx(1.0, abs=0.01)


class TestValue:
    def test_what_is_long_idle_large_or_quick_to_wake_goes_first(self):
        base = keepalive.value(5.0, 600.0, 60.0, 10**10)

        assert keepalive.value(5.0, 6000.0, 60.0, 10**10) < base
        assert keepalive.value(5.0, 600.0, 60.0, 10**11) < base
        assert keepalive.value(5.0, 600.0, 3.0, 10**10) < base
        assert keepalive.value(50.0, 600.0, 60.0, 10**10) > base
