"""Live numbers from three readings of each source."""

import pytest

from agents.wire import HostSample, ReplicaSample
from apps.telemetry.counters import HostReading, Seen, engine_change
from apps.telemetry.numbers import Readings, compute
from gateway.wire import TTFT_BUCKETS_SECONDS, Counts, Live

NOW = 1_000_000.0


def live(*, started_at=0.0, **deployments) -> Live:
    return Live(gateway_id="g", started_at=started_at, seq=1, deployments=deployments)


def readings(*, gateways=({}, {}, {}), hosts=({}, {}, {}), members=None) -> Readings:
    return Readings(tuple(gateways), tuple(hosts), members or {})


def one_gateway(new, short=None, long=None, at=NOW):
    olds = [{"g": Seen(NOW - age, old)} if old else {} for age, old in ((10, short), (60, long))]
    return [{"g": Seen(at, new)}, *olds]


def sample(at, **counters) -> ReplicaSample:
    return ReplicaSample(replica_id="r1", at=at, **counters)


def host(*samples, at=NOW):
    reading = HostReading(
        samples=samples,
        host_sample=HostSample(at=at, cpu_ratio=0.25, memory_used_bytes=5, disk_free_bytes=9),
    )
    return {"alpha": Seen(at, reading)}


class TestGateways:
    def test_rates_are_over_the_seconds_between_two_readings(self):
        new = live(smol=Counts(in_flight=3, queued=2, requests_total=150, output_tokens_total=900))
        old = live(smol=Counts(requests_total=100, output_tokens_total=400))

        flow = compute(readings(gateways=one_gateway(new, old, old)), NOW).deployments["smol"]

        assert (flow.in_flight, flow.queued) == (3, 2)
        assert flow.requests_per_second == pytest.approx(5.0)
        assert flow.output_tokens_per_second == pytest.approx(50.0)

    def test_adds_up_several_gateways(self):
        counts = live(smol=Counts(in_flight=2))
        newest = {"g": Seen(NOW, counts), "h": Seen(NOW, counts)}

        numbers = compute(readings(gateways=[newest, {}, {}]), NOW)

        assert numbers.gateways == 2
        assert numbers.deployments["smol"].in_flight == 4
        assert numbers.total.in_flight == 4

    def test_forgets_a_gateway_that_is_silent(self):
        gone = one_gateway(live(smol=Counts(in_flight=5)), at=NOW - 11)

        numbers = compute(readings(gateways=gone), NOW)

        assert (numbers.gateways, numbers.deployments) == (0, {})

    def test_a_restart_counts_only_what_came_after_it(self):
        before = live(started_at=1.0, smol=Counts(requests_total=1_000_000))
        after = live(started_at=NOW - 5, smol=Counts(requests_total=20))

        flow = compute(readings(gateways=one_gateway(after, before, before)), NOW)

        assert flow.deployments["smol"].requests_per_second == pytest.approx(4.0)

    def test_tells_no_rate_of_a_gateway_that_it_sees_for_the_first_time(self):
        old_hand = live(started_at=1.0, smol=Counts(in_flight=1, requests_total=1_000_000))

        flow = compute(readings(gateways=one_gateway(old_hand)), NOW).deployments["smol"]

        assert (flow.in_flight, flow.requests_per_second) == (1, 0.0)

    def test_percentiles_are_of_the_last_minute_alone(self):
        slow_past = [0] * 21
        slow_past[-1] = 1000
        now = list(slow_past)
        now[5] = 10  # between 0.08 s and 0.1 s
        new, old = (
            live(smol=Counts(ttft_buckets=tuple(now))),
            live(smol=Counts(ttft_buckets=tuple(slow_past))),
        )

        flow = compute(readings(gateways=one_gateway(new, old, old)), NOW).deployments["smol"]

        assert TTFT_BUCKETS_SECONDS[4] < flow.ttft_p50_seconds < TTFT_BUCKETS_SECONDS[5]
        assert flow.ttft_p95_seconds < TTFT_BUCKETS_SECONDS[5]


class TestEngines:
    def test_token_rates_come_from_the_engine_while_a_stream_still_runs(self):
        hosts = [
            host(sample(NOW, output_tokens_total=500.0)),
            host(sample(NOW - 10, output_tokens_total=100.0)),
            {},
        ]
        gateways = one_gateway(live(smol=Counts(in_flight=1)), live(smol=Counts()))

        numbers = compute(readings(gateways=gateways, hosts=hosts, members={"r1": "smol"}), NOW)

        assert numbers.deployments["smol"].output_tokens_per_second == pytest.approx(40.0)
        assert numbers.replicas["r1"].flow.output_tokens_per_second == pytest.approx(40.0)
        assert numbers.total.output_tokens_per_second == pytest.approx(40.0)

    def test_hit_ratio_comes_from_the_engine_when_the_gateway_sees_no_cached_tokens(self):
        hosts = [
            host(sample(NOW, prefix_cache_queries_total=1000.0, prefix_cache_hits_total=600.0)),
            {},
            host(sample(NOW - 60, prefix_cache_queries_total=200.0, prefix_cache_hits_total=0.0)),
        ]
        new = live(smol=Counts(prompt_tokens_total=800))

        numbers = compute(
            readings(gateways=one_gateway(new, None, live()), hosts=hosts, members={"r1": "smol"}),
            NOW,
        )

        assert numbers.deployments["smol"].prefix_cache_hit_ratio == pytest.approx(0.75)

    def test_hit_ratio_comes_from_the_gateway_when_it_sees_them(self):
        new = live(smol=Counts(prompt_tokens_total=800, cached_tokens_total=200))

        numbers = compute(readings(gateways=one_gateway(new, live(), live())), NOW)

        assert numbers.deployments["smol"].prefix_cache_hit_ratio == pytest.approx(0.25)

    def test_shows_what_engine_and_host_say_now(self):
        hosts = [host(sample(NOW, running=4, waiting=1, kv_cache_usage_ratio=0.5)), {}, {}]

        numbers = compute(readings(hosts=hosts), NOW)

        replica = numbers.replicas["r1"]
        assert (replica.running, replica.waiting, replica.kv_cache_usage_ratio) == (4, 1, 0.5)
        assert numbers.hosts["alpha"].cpu_ratio == 0.25

    def test_forgets_a_host_that_is_silent(self):
        hosts = [host(sample(NOW - 11, running=4), at=NOW - 11), {}, {}]

        numbers = compute(readings(hosts=hosts), NOW)

        assert (numbers.replicas, numbers.hosts) == ({}, {})

    def test_falling_counters_are_a_restart(self):
        before = sample(NOW - 10, output_tokens_total=9000.0, prompt_tokens_total=100.0)
        after = sample(NOW, output_tokens_total=50.0, prompt_tokens_total=120.0)

        change = engine_change(after, before)

        assert (change.output_tokens, change.prompt_tokens) == (50.0, 120.0)
