"""Readings that arrive together are written together."""

import asyncio

from apps.telemetry import live
from gateway.wire import Counts, Live, encode


def reading(in_flight: int) -> bytes:
    counts = Counts(in_flight=in_flight)
    return encode(Live(gateway_id="g", started_at=1.0, seq=1, deployments={"smol": counts}))


async def test_many_sources_cost_one_call(redis):
    await live.put_gateway("first", reading(1))  # loads the script
    redis.config_resetstat()

    kept = await asyncio.gather(*(live.put_gateway(f"g{n}", reading(1)) for n in range(50)))

    assert all(kept)
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    assert live.numbers().deployments["smol"].in_flight == 51


async def test_the_newest_reading_of_a_source_wins_within_a_batch(redis):
    await asyncio.gather(*(live.put_gateway("g", reading(n)) for n in range(5)))

    assert live.numbers().deployments["smol"].in_flight == 4


async def test_a_caller_that_goes_away_takes_nobody_with_it(redis):
    leaving = asyncio.create_task(live.put_gateway("g1", reading(1)))
    staying = asyncio.create_task(live.put_gateway("g2", reading(2)))
    await asyncio.sleep(0)
    leaving.cancel()

    assert await staying
    assert live.numbers().deployments["smol"].in_flight == 3


async def test_everyone_is_told_that_redis_is_away(no_redis):
    assert await asyncio.gather(*(live.put_gateway(f"g{n}", reading(1)) for n in range(3))) == [
        False,
        False,
        False,
    ]
