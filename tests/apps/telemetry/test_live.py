"""Live numbers through a real Redis."""

import msgspec
import pytest

from agents.wire import HostSample, ReplicaReport, ReplicaSample, Report
from agents.wire import encode as encode_report
from apps.lib import clock
from apps.telemetry import live
from gateway.wire import Counts, Live, encode


def gateway(**deployments) -> bytes:
    return encode(Live(gateway_id="g", started_at=1.0, seq=1, deployments=deployments))


def report() -> bytes:
    return encode_report(
        Report(
            agent_epoch=1,
            report_seq=7,
            sent_at=1.0,
            replicas=(ReplicaReport(replica_id="r1", generation=1, phase="ready", phase_at=1.0),),
            samples=(ReplicaSample(replica_id="r1", at=1.0, running=3),),
            host_sample=HostSample(at=1.0, cpu_ratio=0.5, memory_used_bytes=10, disk_free_bytes=20),
        )
    )


class TestNumbers:
    async def test_shows_what_was_just_put(self, redis):
        assert await live.put_gateway("g", gateway(smol=Counts(in_flight=4)))
        assert await live.put_host("alpha", report())

        numbers = await live.anumbers()

        assert numbers.deployments["smol"].in_flight == 4
        assert numbers.replicas["r1"].running == 3
        assert numbers.hosts["alpha"].cpu_ratio == 0.5
        assert not numbers.stale

    async def test_the_newest_reading_counts(self, redis):
        await live.put_gateway("g", gateway(smol=Counts(in_flight=4)))
        await live.put_gateway("g", gateway(smol=Counts(in_flight=1)))

        assert live.numbers().deployments["smol"].in_flight == 1

    async def test_is_one_round_trip(self, redis):
        await live.put_gateway("g", gateway(smol=Counts(in_flight=4)))
        before = redis.info("stats")["total_reads_processed"]

        live.numbers()

        # One read for the pipeline, one for the INFO that counts.
        assert redis.info("stats")["total_reads_processed"] - before == 2

    async def test_leaves_out_a_reading_that_it_cannot_read(self, redis):
        await live.put_gateway("g", gateway(smol=Counts(in_flight=4)))
        redis.hset("hearth:now:gateways", "later-release", b"1.0\n[]")
        redis.hset("hearth:now:hosts", "broken", b"nothing")

        assert live.numbers().deployments["smol"].in_flight == 4

    async def test_survives_a_restart_of_redis_that_lost_the_script(self, redis):
        await live.put_gateway("g", gateway(smol=Counts(in_flight=4)))
        redis.script_flush()

        assert await live.put_gateway("g", gateway(smol=Counts(in_flight=5)))

    async def test_readings_expire_by_themselves(self, redis):
        await live.put_gateway("g", gateway(smol=Counts(in_flight=4)))

        assert {redis.ttl(key) > 0 for key in redis.keys("hearth:*")} == {True}

    @pytest.mark.parametrize("read", [live.numbers, live.anumbers], ids=["sync", "async"])
    async def test_is_empty_and_stale_without_redis(self, no_redis, read):
        numbers = read()
        if not isinstance(numbers, live.FleetNumbers):
            numbers = await numbers

        assert numbers.stale
        assert numbers.deployments == {}

    async def test_putting_without_redis_says_so(self, no_redis):
        assert not await live.put_gateway("g", gateway())
        await live.put_wakes(["smol"])
        live.put_members({"r1": "smol"})
        assert live.wakes(clock.now()) == frozenset()


async def test_sources_that_have_gone_are_forgotten(redis):
    await live.put_gateway("here", gateway(smol=Counts(in_flight=4)))
    redis.hset("hearth:now:gateways", "gone", b"%.3f\n%b" % (1000.0, gateway()))

    assert live.forget_silent(clock.now()) == 1
    assert redis.hkeys("hearth:now:gateways") == [b"here"]


class TestWakes:
    async def test_a_wish_lasts_half_a_minute(self, redis):
        await live.put_wakes(["smol", "big"])
        now = clock.now()

        assert live.wakes(now) == {"smol", "big"}
        later = now.fromtimestamp(now.timestamp() + 31, now.tzinfo)
        assert live.wakes(later) == frozenset()


def test_slots_give_back_what_was_put(redis, monkeypatch):
    value = b"%.3f\n%b" % (1000.0, gateway(smol=Counts(requests_total=4)))
    redis.hset("hearth:slot:gateways:200", "g", value)

    first, second = live.slots(200, 201)

    assert first.gateways["g"].at == 1000.0
    assert first.gateways["g"].reading.deployments["smol"].requests_total == 4
    assert second.gateways == {}
    assert msgspec.json.decode(value.partition(b"\n")[2])["gateway_id"] == "g"
