"""The rules of others, value by value, and cron windows."""

from datetime import UTC, datetime, timedelta

import pytest

from apps.deployments import cron
from apps.deployments.reconcile.scaling import hpa, knative, ray, schedule
from apps.deployments.reconcile.scaling.values import (
    Hold,
    HpaMemory,
    KnativeMemory,
    Observations,
    Policy,
    RayMemory,
    Window,
)

TEN = Policy(max_replicas=100, target_concurrency=10)


def seen(at, concurrency, ready=1, **more):
    return Observations(at=float(at), in_flight=concurrency, ready=ready, **more)


def feed(rule, memory, loads, *, ready=1, **more):
    """Return what the rule asks for at each of `loads`, two seconds apart."""
    found = []
    for number, load in enumerate(loads):
        need = rule(TEN, memory, seen(2 * number, load, ready), **more)
        memory = need.memory
        found.append(need.replicas)
    return found


class TestKnative:
    def test_asks_for_the_mean_of_a_minute_over_seventy_percent_of_the_target(self):
        assert feed(knative.need, KnativeMemory(), [21] * 30, ready=3)[-1] == 3
        assert feed(knative.need, KnativeMemory(), [22] * 30, ready=3)[-1] == 4

    def test_panics_at_twice_what_is_ready_and_does_not_go_down_while_it_does(self):
        loads = [7] * 30 + [70] * 3 + [0] * 25

        found = feed(knative.need, KnativeMemory(), loads)

        assert found[29] == 1
        assert found[32] == 10
        assert min(found[33:]) == 10

    def test_leaves_panic_a_stable_window_after_the_last_excess(self):
        found = feed(knative.need, KnativeMemory(), [7] * 30 + [70] * 3 + [0] * 40)

        assert found[-1] == 0

    def test_goes_down_to_half_of_what_is_ready_at_once_at_most(self):
        assert feed(knative.need, KnativeMemory(), [0] * 30, ready=10)[-1] == 5

    def test_scale_down_delay_keeps_the_largest_of_the_window(self):
        loads = [70] * 30 + [7] * 60

        with_delay = feed(knative.need, KnativeMemory(), loads, ready=10, delay_seconds=300.0)
        without = feed(knative.need, KnativeMemory(), loads, ready=10)

        assert with_delay[-1] == 10
        assert without[-1] == 5


class TestHpa:
    def test_does_nothing_within_ten_percent(self):
        memory = HpaMemory(desired=10)

        assert hpa.need(TEN, memory, seen(100, 109, 10)).replicas == 10
        assert hpa.need(TEN, memory, seen(100, 111, 10)).replicas == 12

    def test_goes_up_by_four_or_to_twice_in_fifteen_seconds(self):
        assert hpa.need(TEN, HpaMemory(desired=2), seen(100, 900, 2)).replicas == 6
        assert hpa.need(TEN, HpaMemory(desired=9), seen(100, 900, 9)).replicas == 18

    def test_between_two_syncs_the_answer_stands(self):
        first = hpa.need(TEN, HpaMemory(desired=2), seen(100, 40, 2))

        assert hpa.need(TEN, first.memory, seen(110, 900, 2)).replicas == first.replicas

    def test_goes_down_after_five_minutes_of_lower_recommendations(self):
        memory, found = HpaMemory(desired=10), []
        for number in range(60):
            need = hpa.need(TEN, memory, seen(15 * number, 100 if number < 2 else 10, 10))
            memory = need.memory
            found.append(need.replicas)

        assert found[20] == 10
        assert found[22] == 1


class TestKeda:
    def test_sees_a_metric_every_thirty_seconds(self):
        first = hpa.need_keda(TEN, HpaMemory(desired=2), seen(100, 20, 2))
        at_sync = hpa.need_keda(TEN, first.memory, seen(116, 100, 2))
        at_poll = hpa.need_keda(TEN, at_sync.memory, seen(131, 100, 2))

        assert at_sync.replicas == 2
        assert at_poll.replicas == 6

    def test_is_at_zero_after_its_cooldown_where_the_minimum_allows(self):
        zero = Policy(min_replicas=0, max_replicas=5, target_concurrency=10)
        memory = hpa.need_keda(zero, HpaMemory(), seen(0, 5)).memory

        assert hpa.need_keda(zero, memory, seen(299, 0)).replicas == 1
        assert hpa.need_keda(zero, memory, seen(300, 0)).replicas == 0
        assert hpa.need_keda(TEN, memory, seen(300, 0)).replicas == 1


class TestRay:
    def test_a_rise_must_last_thirty_seconds(self):
        found = feed(ray.need, RayMemory(desired=1), [30] * 20)

        assert found[14] == 1
        assert found[15] == 3

    def test_a_fall_must_last_ten_minutes(self):
        found = feed(ray.need, RayMemory(desired=5), [10] * 310, ready=5)

        assert found[299] == 5
        assert found[301] == 1

    def test_from_zero_at_once_and_to_zero_only_from_one(self):
        zero = Policy(min_replicas=0, max_replicas=5, target_concurrency=10)

        assert ray.need(zero, RayMemory(desired=0), seen(0, 1, 0)).replicas == 1
        ended = RayMemory(desired=3, down_since=-700.0)
        assert ray.need(zero, ended, seen(0, 0, 3)).replicas == 1


class TestHold:
    def test_is_the_largest_of_its_window(self):
        hold, found = Hold(), []
        for at, need in [(0, 5), (10, 3), (50, 4), (61, 1), (75, 1), (111, 1)]:
            hold = hold.add(float(at), need, 60.0)
            found.append(hold.most)

        assert found == [5, 5, 5, 4, 4, 1]


class TestCron:
    @pytest.mark.parametrize(
        ("text", "at", "fired"),
        [
            ("0 8 * * 1-5", "2026-11-02T09:30", "2026-11-02T08:00"),
            ("0 8 * * 1-5", "2026-11-01T09:30", None),
            ("*/20 * * * *", "2026-11-02T09:39", "2026-11-02T09:20"),
            ("15,45 9 * * *", "2026-11-02T09:50", "2026-11-02T09:45"),
            ("0 0 1 * *", "2026-11-01T00:00", "2026-11-01T00:00"),
            ("0 9 2 * 0", "2026-11-02T09:00", "2026-11-02T09:00"),
            ("0 9 * 12 *", "2026-11-02T09:00", None),
            ("0 9 * * 7", "2026-11-01T10:00", "2026-11-01T09:00"),
        ],
    )
    def test_finds_the_last_firing_of_two_hours(self, text, at, fired):
        found = cron.parse(text).last_firing(datetime.fromisoformat(at), timedelta(hours=2))

        assert found == (None if fired is None else datetime.fromisoformat(fired))

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("0 8 * *", "five are needed"),
            ("60 8 * * *", "minute"),
            ("0 8-30 * * *", "hour"),
            ("0 8 0 * *", "day of month"),
            ("0 8 * x *", "month"),
            ("0 8 * * */0", "day of week"),
        ],
    )
    def test_what_is_none_is_named(self, text, names):
        with pytest.raises(ValueError, match=names):
            cron.parse(text)


class TestSchedule:
    def test_holds_in_its_own_zone_across_summer_time(self):
        window = Window(
            cron="0 8 * * *", timezone="Europe/Berlin", duration_seconds=3600, min_replicas=2
        )
        summer = datetime(2026, 7, 1, 6, 30, tzinfo=UTC).timestamp()
        winter = datetime(2026, 12, 1, 6, 30, tzinfo=UTC).timestamp()

        assert schedule.bounds((window,), summer, 0) == (2, None)
        assert schedule.bounds((window,), winter, 0) == (0, None)

    def test_of_two_windows_the_higher_bounds_count(self):
        one = Window(cron="* * * * *", duration_seconds=60, min_replicas=1, max_replicas=2)
        two = Window(cron="* * * * *", duration_seconds=60, min_replicas=3, max_replicas=5)

        assert schedule.bounds((one, two), 1e9, 0) == (3, 5)
