"""What a gateway sees of the control plane."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import msgspec
import pytest
from channels.layers import get_channel_layer
from django.db import connection, transaction

from apps.deployments import observed
from apps.deployments.models import Replica
from apps.deployments.states import ReplicaPhase
from apps.lib import clock, doorbell
from apps.telemetry import live
from apps.traffic import actions, endpoints, ledger
from apps.traffic.models import UsageRow
from gateway.wire import (
    Counts,
    Live,
    LiveReply,
    Outcome,
    RoutingTable,
    UsageAck,
    UsageBatch,
    UsageRecord,
    decode,
    encode,
)
from tests.apps.traffic import world
from tests.apps.traffic.plane import Plane

pytestmark = pytest.mark.django_db(transaction=True)


def table_of(response) -> RoutingTable:
    assert response.status_code == 200, response.text
    return decode(RoutingTable, response.content)


async def in_thread(work, *arguments, **more):
    return await asyncio.to_thread(work, *arguments, **more)


class TestCredential:
    @pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic x"], ids=str)
    async def test_refuses_whoever_has_none(self, credential, header):
        async with Plane(credential) as plane:
            response = await plane.request("GET", "/table", headers={"authorization": header})

        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"

    async def test_takes_a_new_one_without_a_restart(self, credential, tmp_path):
        async with Plane(credential) as plane:
            await plane.table()
            other = tmp_path / "other"
            await in_thread(actions.ensure_gateway_credential, "second", other)
            plane._app._credentials._read_at -= 2  # the cache may look again

            response = await plane.request(
                "GET",
                "/table",
                headers={"authorization": f"Bearer {other.read_text().strip()}"},
            )

        assert response.status_code == 200

    def test_file_is_for_its_owner_alone(self, credential, tmp_path):
        assert (tmp_path / "gateway_credential").stat().st_mode & 0o777 == 0o600

    def test_second_call_keeps_the_credential(self, credential, tmp_path):
        actions.ensure_gateway_credential("local", tmp_path / "gateway_credential")

        assert (tmp_path / "gateway_credential").read_text().strip() == credential


class TestTable:
    async def test_names_the_socket_of_a_replica_on_the_same_host(self, credential, redis):
        def arrange():
            return world.replica(world.deployment(), world.host("alpha"))

        row = await in_thread(arrange)
        async with Plane(credential) as plane:
            table = table_of(await plane.table(host="alpha"))

        route = table.models["smol"].replicas[0]
        assert (route.id, route.url, route.api_key) == (
            str(row.pk),
            f"unix:/run/{row.pk}.sock",
            "engine-key",
        )

    async def test_names_the_relay_for_a_gateway_elsewhere(self, credential, redis):
        row = await in_thread(lambda: world.replica(world.deployment(), world.host("alpha")))
        async with Plane(credential) as plane:
            table = table_of(await plane.table(host="beta"))

        route = table.models["smol"].replicas[0]
        assert (route.url, route.api_key) == (
            f"http://alpha:7000/r/{row.pk}",
            "relay-of-alpha",
        )

    async def test_answers_a_waiting_gateway_as_soon_as_a_replica_drains(self, credential, redis):
        row = await in_thread(lambda: world.replica(world.deployment(), world.host()))

        def drain():
            with transaction.atomic():
                Replica.objects.filter(pk=row.pk).update(phase=ReplicaPhase.DRAINING)
                doorbell.ring(doorbell.TABLE)

        async with Plane(credential) as plane:
            first = table_of(await plane.table(host="alpha"))
            waiting = asyncio.create_task(plane.table(host="alpha", known=first.revision, wait=20))
            await asyncio.sleep(0.1)
            began_at = time.monotonic()
            await in_thread(drain)
            second = table_of(await waiting)

        assert time.monotonic() - began_at < 0.5
        assert second.revision > first.revision
        assert second.models["smol"].replicas[0].state == "draining"

    async def test_sees_a_change_whose_ring_was_lost(self, credential, no_redis):
        def move():
            replica = Replica.objects.select_related("deployment", "host").get()
            observed.move_replica(
                replica, ReplicaPhase.LOST, now=clock.now(), reason="silent", actor="test"
            )

        await in_thread(lambda: world.replica(world.deployment(), world.host()))
        async with Plane(credential) as plane:
            first = table_of(await plane.table())
            waiting = asyncio.create_task(plane.table(known=first.revision, wait=20))
            await asyncio.sleep(0.1)
            await in_thread(move)
            second = table_of(await asyncio.wait_for(waiting, 5))

        assert second.models["smol"].replicas == ()

    async def test_keeps_its_revision_when_a_ring_changes_nothing(self, credential, redis):
        await in_thread(lambda: world.replica(world.deployment(), world.host()))
        async with Plane(credential) as plane:
            first = table_of(await plane.table())
            await in_thread(doorbell.ring, doorbell.TABLE)
            second = table_of(await plane.table(known=first.revision, wait=0.2))

        assert second == first

    async def test_answers_at_once_a_gateway_that_knows_a_lost_databases_table(
        self, credential, redis
    ):
        async with Plane(credential) as plane:
            table = table_of(await plane.table(known=2**52, wait=20))

        assert table.revision < 2**52

    async def test_works_without_redis(self, credential, no_redis):
        await in_thread(lambda: world.replica(world.deployment(), world.host()))
        async with Plane(credential) as plane:
            table = table_of(await plane.table(host="alpha"))

        assert list(table.models) == ["smol"]

    async def test_refuses_a_number_that_is_none(self, credential, redis):
        async with Plane(credential) as plane:
            response = await plane.table(known="new")

        assert response.status_code == 400
        assert response.json()["field"] == "known"


class TestLive:
    async def test_shows_in_flight_at_once(self, credential, redis):
        message = Live(
            gateway_id="g1", started_at=1.0, seq=1, deployments={"smol": Counts(in_flight=7)}
        )
        async with Plane(credential) as plane:
            reply = await plane.post("live", encode(message))
            numbers = await live.anumbers()

        assert decode(LiveReply, reply.content).accepted
        assert numbers.deployments["smol"].in_flight == 7

    async def test_tells_open_pages_within_300_ms(self, credential, redis):
        layer = get_channel_layer()
        page = await layer.new_channel()
        await layer.group_add("fleet", page)
        message = Live(gateway_id="g1", started_at=1.0, seq=1)
        busy = msgspec.structs.replace(message, deployments={"smol": Counts(in_flight=1)})
        async with Plane(credential) as plane:
            await plane.post("live", encode(message))
            began_at = time.monotonic()
            await plane.post("live", encode(busy))
            told = await asyncio.wait_for(layer.receive(page), 5)

        assert told["kind"] == "numbers"
        assert time.monotonic() - began_at < 0.3

    async def test_passes_on_whom_to_wake(self, credential, redis):
        message = Live(gateway_id="g1", started_at=1.0, seq=1, ring=("smol",))
        async with Plane(credential) as plane:
            await plane.post("live", encode(message))

        assert live.wakes(clock.now()) == {"smol"}

    async def test_without_redis_says_that_nothing_was_kept(self, credential, no_redis):
        message = Live(gateway_id="g1", started_at=1.0, seq=1)
        async with Plane(credential) as plane:
            reply = await plane.post("live", encode(message))

        assert reply.status_code == 200
        assert not decode(LiveReply, reply.content).accepted

    async def test_names_the_wrong_field(self, credential, redis):
        async with Plane(credential) as plane:
            response = await plane.post("live", b'{"gateway_id":"g","started_at":1,"seq":"x"}')

        assert response.status_code == 400
        assert "$.seq" in response.json()["detail"]

    async def test_refuses_a_body_that_is_too_long(self, credential, redis):
        async with Plane(credential) as plane:
            response = await plane.post("live", b"x" * (endpoints.LIVE_LIMIT_BYTES + 1))

        assert response.status_code == 413


def record(**fields) -> UsageRecord:
    values = {
        "id": str(uuid4()),
        "deployment": "smol",
        "model": "smol",
        "admitted_at": world.NOW.timestamp(),
        "total_seconds": 2.0,
        "prompt_tokens": 100,
        "output_tokens": 50,
        "outcome": Outcome.COMPLETED,
        "status": 200,
    }
    return UsageRecord(**(values | fields))


def batch(*records, batch_id="b1") -> bytes:
    return encode(UsageBatch(gateway_id="g1", batch_id=batch_id, records=records))


class TestUsage:
    async def test_counts_a_record_once_however_often_it_comes(self, credential, redis):
        first, second = record(), record()
        async with Plane(credential) as plane:
            one = await plane.post("usage", batch(first))
            both = await plane.post("usage", batch(first, second, second, batch_id="b2"))
            again = await plane.post("usage", batch(first, second, batch_id="b2"))

        acks = [decode(UsageAck, response.content) for response in (one, both, again)]
        assert [ack.accepted for ack in acks] == [1, 1, 0]
        assert [ack.batch_id for ack in acks] == ["b1", "b2", "b2"]
        assert await in_thread(UsageRow.objects.count) == 2

    async def test_stores_nothing_of_a_batch_with_a_record_that_cannot_be(self, credential, redis):
        async with Plane(credential) as plane:
            response = await plane.post("usage", batch(record(), record(output_tokens=-1)))

        assert response.status_code == 400
        assert "$.records[1].output_tokens" in response.json()["detail"]
        assert await in_thread(UsageRow.objects.count) == 0

    async def test_keeps_what_it_knows_of_replica_host_and_key(self, credential, redis):
        def arrange():
            row = world.replica(world.deployment(), world.host("alpha"))
            key, _ = actions.create_key(
                name="k", owner=world.user(), limits=actions.KeyLimits(), actor="ada", now=world.NOW
            )
            return row, key

        replica, key = await in_thread(arrange)
        async with Plane(credential) as plane:
            sent = record(replica=str(replica.pk), key_id=str(key.pk))
            await plane.post("usage", batch(sent))

        row = await in_thread(UsageRow.objects.get)
        assert (row.replica, row.host, row.key) == (replica.pk, "alpha", key.pk)
        assert row.cost_usd > 0
        await in_thread(key.refresh_from_db)
        assert key.last_used_at == row.admitted_at

    def test_charges_no_second_twice_when_two_web_processes_are_told_at_once(self, redis):
        replica = world.replica(world.deployment(), world.host(price_per_hour_usd=3600))
        told = [
            UsageBatch(gateway_id="g", batch_id=str(n), records=(record(replica=str(replica.pk)),))
            for n in range(8)
        ]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(_recorded, told))

        alone, *others = sorted(_costs(), reverse=True)
        assert alone > 0
        assert others == [0] * 7

    @pytest.mark.parametrize("field", ["total_seconds", "queue_seconds"])
    async def test_refuses_times_that_no_calendar_has(self, credential, redis, field):
        async with Plane(credential) as plane:
            response = await plane.post("usage", batch(record(**{field: 1e15})))

        assert response.status_code == 400
        assert f"$.records[0].{field}" in response.json()["detail"]

    async def test_takes_the_names_of_a_table_from_a_file(self, credential, redis):
        async with Plane(credential) as plane:
            response = await plane.post("usage", batch(record(replica="r1", key_id="k1")))

        assert decode(UsageAck, response.content).accepted == 1


def _recorded(one: UsageBatch) -> None:
    ledger.record(one, world.NOW)
    connection.close()


def _costs():
    return list(UsageRow.objects.values_list("cost_usd", flat=True))


class TestRoutes:
    async def test_unknown_address_and_wrong_method(self, credential, redis):
        async with Plane(credential) as plane:
            unknown = await plane.request("GET", "/nothing")
            wrong = await plane.request("GET", "/live")

        assert (unknown.status_code, wrong.status_code) == (404, 405)
