"""From readings in Redis to buckets in the database."""

from datetime import UTC, datetime, timedelta

import pytest
import redis as redis_client

from agents.wire import HostSample, ReplicaSample
from apps.telemetry import actions, live, queries
from apps.telemetry.counters import HostReading
from apps.telemetry.models import Rollup, Tick
from apps.telemetry.states import Step
from gateway.wire import Counts, Live, encode

pytestmark = pytest.mark.django_db

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def put(redis, at, *, started_at=1.0, gateway="g", **deployments):
    """Store a gateway's reading as `live.put_gateway` would have at `at`."""
    body = encode(Live(gateway_id=gateway, started_at=started_at, seq=1, deployments=deployments))
    slot = live.slot_of(at.timestamp())
    redis.hset(f"hearth:slot:gateways:{slot}", gateway, b"%.3f\n%b" % (at.timestamp(), body))


def put_host(redis, at, reading: HostReading):
    slot = live.slot_of(at.timestamp())
    body = live.msgspec.json.encode(reading)
    redis.hset(f"hearth:slot:hosts:{slot}", "alpha", b"%.3f\n%b" % (at.timestamp(), body))


def steady(redis, duration_seconds, *, silent=()):
    """One gateway that holds 3 requests and ends one in every slot of two seconds.

    It posts nothing in the slots of `silent`, counted from `START`.
    """
    for number in range(duration_seconds // 2 + 2):
        counts = Counts(in_flight=3, requests_total=100 + number, output_tokens_total=20 * number)
        if number not in silent:
            put(redis, START + seconds(2 * number), smol=counts)


def rows(step=Step.FINE):
    return list(Rollup.objects.filter(step_seconds=step).order_by("start_at", "kind"))


class TestFlush:
    def test_writes_a_bucket_once_its_readings_are_complete(self, redis):
        steady(redis, 10)

        assert actions.flush(START + seconds(11)) == 1  # the bucket before, which was idle
        assert rows() == []
        assert actions.flush(START + seconds(12)) == 1

        (row,) = rows()
        assert (row.subject, row.start_at, row.step_seconds) == ("smol", START, 10)
        assert row.sums["requests"] == 5
        assert row.sums["in_flight"] == 15
        assert row.peaks["in_flight"] == 3

    def test_a_second_beat_writes_nothing(self, redis):
        steady(redis, 10)

        actions.flush(START + seconds(12))

        assert actions.flush(START + seconds(13)) == 0
        assert len(rows()) == 1

    def test_the_loser_of_a_race_writes_nothing(self, redis, monkeypatch):
        steady(redis, 10)
        monkeypatch.setattr(actions, "_newest", lambda name: START - seconds(10))
        actions.flush(START + seconds(12))

        assert actions.flush(START + seconds(12)) == 0
        assert len(rows()) == 1

    def test_catches_up_after_the_worker_was_away(self, redis):
        steady(redis, 60)
        actions.flush(START + seconds(12))

        assert actions.flush(START + seconds(62)) == 5

        assert [row.sums["requests"] for row in rows()] == [5.0] * 6

    @pytest.mark.parametrize("silent", [(2, 3), (4, 5), (5, 6), (3, 4, 5)], ids=str)
    def test_posts_that_come_late_cost_no_count(self, redis, silent):
        steady(redis, 30, silent=silent)

        for number in range(3):
            actions.flush(START + seconds(12 + 10 * number))

        assert sum(row.sums["requests"] for row in rows()) == 15
        assert sum(row.sums["samples"] for row in rows()) == 15

    def test_leaves_out_who_was_idle(self, redis):
        for number in range(8):
            put(redis, START + seconds(2 * number), smol=Counts(requests_total=7))

        actions.flush(START + seconds(12))

        assert rows() == []

    def test_adds_up_the_gauges_of_gateways_in_one_moment(self, redis):
        for number in range(6):
            for gateway in ("g", "h"):
                put(
                    redis,
                    START + seconds(2 * number),
                    gateway=gateway,
                    smol=Counts(in_flight=2),
                )

        actions.flush(START + seconds(12))

        assert rows()[0].peaks["in_flight"] == 4

    def test_keeps_what_engines_and_hosts_say(self, redis):
        for number in range(6):
            at = START + seconds(2 * number)
            sample = ReplicaSample(
                replica_id="r1",
                at=at.timestamp(),
                running=2,
                output_tokens_total=100.0 * number,
                memory_bytes=7,
            )
            host = HostSample(
                at=at.timestamp(), cpu_ratio=0.5, memory_used_bytes=10, disk_free_bytes=1
            )
            put_host(redis, at, HostReading(samples=(sample,), host_sample=host))

        actions.flush(START + seconds(12))

        host_row, replica_row = rows()
        assert host_row.sums == {"samples": 5.0, "cpu_ratio": 2.5, "memory_used_bytes": 50.0}
        assert replica_row.sums["engine_output_tokens"] == 500.0
        assert replica_row.peaks["memory_bytes"] == 7.0

    def test_raises_without_redis_and_leaves_the_bucket_for_later(self, no_redis):
        with pytest.raises(redis_client.RedisError):
            actions.flush(START)

        assert not Tick.objects.exists()


class TestRollUp:
    def test_merges_minutes_and_keeps_all_that_adds_up(self, redis):
        steady(redis, 130)
        for number in range(13):
            actions.flush(START + seconds(12 + 10 * number))
            actions.roll_up(START + seconds(12 + 10 * number))

        first, second = rows(Step.MINUTE)
        assert (first.start_at, second.start_at) == (START, START + seconds(60))
        assert first.sums["requests"] == 30
        assert first.peaks["in_flight"] == 3
        assert first.sums["samples"] == 30

    def test_forgets_fine_buckets_before_coarse_ones(self, redis):
        steady(redis, 70)
        for number in range(7):
            actions.flush(START + seconds(12 + 10 * number))
            actions.roll_up(START + seconds(12 + 10 * number))

        actions.forget(START + timedelta(hours=4))

        assert rows(Step.FINE) == []
        assert len(rows(Step.MINUTE)) == 1


class TestSeries:
    def test_gives_points_and_the_whole_window(self, redis):
        steady(redis, 60)
        actions.flush(START + seconds(12))
        actions.flush(START + seconds(62))

        series = queries.series("smol", 60, START + seconds(60))

        assert series.step_seconds == 10
        assert len(series.points) == 6
        assert series.points[0].requests_per_second == pytest.approx(0.5)
        assert series.points[0].in_flight == pytest.approx(3.0)
        assert series.whole.requests == 30
        assert series.whole.output_tokens_per_second == pytest.approx(10.0)

    def test_idle_time_lowers_the_mean_of_the_window(self, redis):
        steady(redis, 10)
        actions.flush(START + seconds(12))

        series = queries.series("smol", 20, START + seconds(20))

        assert series.whole.in_flight == pytest.approx(1.5)

    @pytest.mark.parametrize("text", ["", "5", "1x", "-1h", "5s", "401d", "0h"], ids=str)
    def test_refuses_a_window_that_is_none(self, text):
        with pytest.raises(queries.Problem) as refused:
            queries.window_seconds(text)

        assert refused.value.extra == {"field": "window"}

    @pytest.mark.parametrize(
        ("seconds_", "step"), [(900, 10), (7200, 10), (21600, 60), (86400 * 7, 3600)], ids=str
    )
    def test_takes_the_finest_step_that_fits_a_chart(self, seconds_, step):
        assert queries.series("smol", seconds_, START).step_seconds == step
