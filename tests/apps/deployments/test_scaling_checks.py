"""What people may say of scaling, and what they are told when it cannot be."""

import pytest

from apps.deployments.models import ScalingPolicy
from apps.deployments.orders import Scaling
from apps.deployments.scaling_checks import checked_scaling, warnings
from apps.lib.problems import Problem

OFFICE = {"cron": "0 8 * * 1-5", "duration_seconds": 36_000, "min_replicas": 2}


class TestRefused:
    @pytest.mark.parametrize(
        ("field", "wish"),
        [
            ("scaling.min_replicas", {"min_replicas": 3, "max_replicas": 2}),
            ("scaling.target_concurrency", {"target_concurrency": 0}),
            ("scaling.hold_seconds", {"hold_seconds": 3601}),
            ("scaling.scale_to_zero_after_seconds", {"scale_to_zero_after_seconds": 0}),
            ("scaling.profile", {"profile": "eager"}),
            ("scaling.rule", {"rule": "magic"}),
            ("scaling.gpu_budget", {"gpu_budget": -1}),
            ("scaling.ttft_target_seconds", {"ttft_target_seconds": float("nan")}),
            ("scaling.schedule.0.cron", {"schedule": [{**OFFICE, "cron": "0 25 * * *"}]}),
            ("scaling.schedule.0.cron", {"schedule": [{**OFFICE, "cron": "daily"}]}),
            ("scaling.schedule.1", {"schedule": [OFFICE, {**OFFICE, "from": "8:00"}]}),
            ("scaling.schedule.0.timezone", {"schedule": [{**OFFICE, "timezone": "Mars/North"}]}),
            ("scaling.schedule.0.min_replicas", {"schedule": [{**OFFICE, "max_replicas": 1}]}),
            ("scaling.schedule.0", {"schedule": [{**OFFICE, "min_replicas": None}]}),
        ],
    )
    def test_names_the_field(self, field, wish):
        with pytest.raises(Problem) as refused:
            checked_scaling(Scaling(**wish), ScalingPolicy())

        assert refused.value.extra["field"] == field
        assert refused.value.status == 400


class TestTaken:
    def test_a_minimum_alone_lifts_the_maximum(self):
        policy = checked_scaling(Scaling(min_replicas=4), ScalingPolicy())

        assert (policy.min_replicas, policy.max_replicas) == (4, 4)

    def test_a_zero_takes_a_limit_away(self):
        policy = checked_scaling(
            Scaling(gpu_budget=0, ttft_target_seconds=0),
            ScalingPolicy(gpu_budget=8, ttft_target_seconds=2.0),
        )

        assert (policy.gpu_budget, policy.ttft_target_seconds) == (None, None)

    def test_a_window_is_kept_whole(self):
        policy = checked_scaling(Scaling(schedule=[OFFICE]), ScalingPolicy())

        assert policy.schedule == [{**OFFICE, "timezone": "UTC", "max_replicas": None}]


class TestWarned:
    """Times that are shorter than a start are taken, and told with both numbers."""

    @pytest.mark.parametrize(
        ("field", "columns"),
        [
            ("scale_to_zero_after_seconds", {"min_replicas": 0, "scale_to_zero_after_seconds": 30}),
            ("hold_seconds", {"hold_seconds": 30}),
            ("asleep_ttl_seconds", {"asleep_replicas": 1, "asleep_ttl_seconds": 30}),
            ("asleep_ttl_seconds", {"shares_pool": True, "asleep_ttl_seconds": 30}),
        ],
    )
    def test_names_the_field_the_time_and_the_start(self, field, columns):
        [warning] = warnings(ScalingPolicy(**columns), 41.6)

        assert warning.startswith(f"{field}: 30 s is shorter than a start, which takes 42 s")

    @pytest.mark.parametrize(
        "columns",
        [
            {"min_replicas": 1, "scale_to_zero_after_seconds": 30},
            {"asleep_replicas": 0, "asleep_ttl_seconds": 30},
            {"asleep_replicas": 1, "asleep_ttl_seconds": 0},
            {"min_replicas": 0, "scale_to_zero_after_seconds": 42},
        ],
        ids=["never at zero", "no sleepers", "sleepers for ever", "long enough"],
    )
    def test_not_where_the_time_means_nothing_or_is_long_enough(self, columns):
        assert warnings(ScalingPolicy(**columns), 41.6) == []

    def test_not_before_a_start_was_measured(self):
        assert warnings(ScalingPolicy(min_replicas=0, hold_seconds=0), None) == []
