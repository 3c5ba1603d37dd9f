"""The agents' HTTP: who may speak, which orders come, which reports count."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from channels.db import database_sync_to_async
from django.db import OperationalError

from agents.wire import (
    DesiredPhase,
    EnrolRequest,
    ObservedPhase,
    ReadReply,
    Report,
    SyncReply,
    SyncRequest,
)
from apps.deployments import actions, endpoints
from apps.deployments.models import ReadRequest, Replica
from apps.deployments.states import ReplicaPhase
from apps.fleet import actions as fleet_actions
from apps.fleet.models import Host
from apps.lib import clock, doorbell
from tests.apps.deployments.factories import (
    make_deployment,
    make_host,
    make_inventory,
    make_replica,
    make_report,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]

in_db = database_sync_to_async


class Agent:
    """Speaks to the endpoints as one host's agent."""

    def __init__(self, client: httpx.AsyncClient, credential: str) -> None:
        self._client = client
        self.headers = {"Authorization": f"Bearer {credential}"}

    async def post(self, name: str, message: msgspec.Struct) -> httpx.Response:
        body = msgspec.json.encode(message)
        return await self._client.post(f"/agent/v1/{name}", content=body, headers=self.headers)

    async def sync(self, **wish: Any) -> SyncReply:
        wish = {"session_id": "s1", "wait_seconds": 0.0, **wish}
        response = await self.post("sync", SyncRequest(**wish))
        assert response.status_code == 200, response.text
        return msgspec.json.decode(response.content, type=SyncReply)

    async def report(self, seq: int, *replicas, epoch: int = 1) -> httpx.Response:
        message = Report(agent_epoch=epoch, report_seq=seq, sent_at=0, replicas=replicas)
        return await self.post("report", message)


@pytest.fixture
def listener() -> doorbell.Listener:
    return doorbell.Listener()


@pytest.fixture
async def client(listener) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=endpoints.AgentEndpoints(listener))
    async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
        yield client


@pytest.fixture
def host() -> Host:
    return make_host(credential="alpha-credential")


@pytest.fixture
def agent(client, host) -> Agent:
    return Agent(client, "alpha-credential")


class TestWhoMaySpeak:
    async def test_a_join_token_becomes_a_credential_that_syncs(self, client):
        _, token = await in_db(fleet_actions.create_join_token)(actor="ada", now=clock.now())
        newcomer = Agent(client, "none")
        order = EnrolRequest(
            token=token, host_name="beta", install_id="i" * 32, inventory=make_inventory()
        )

        answer = (await newcomer.post("enrol", order)).json()

        assert answer["host_name"] == "beta"
        assert (await Agent(client, answer["credential"]).sync()).agent_epoch == 1

    async def test_refuses_an_unknown_credential(self, client, host):
        response = await Agent(client, "stolen").report(1)

        assert (response.status_code, response.json()["code"]) == (401, "unknown_credential")

    async def test_refuses_a_message_that_is_not_one_and_names_the_field(self, client, agent):
        response = await client.post(
            "/agent/v1/report", content=b'{"report_seq": "x"}', headers=agent.headers
        )

        assert response.status_code == 400
        assert "report_seq" in response.json()["detail"]

    async def test_refuses_another_release_of_the_protocol(self, agent):
        response = await agent.post("sync", SyncRequest(protocol=99, session_id="s"))

        assert (response.status_code, response.json()["code"]) == (426, "protocol")


class TestSync:
    async def test_answers_the_hosts_own_replicas_alone(self, agent, host):
        deployment = await in_db(make_deployment)()
        mine = await in_db(make_replica)(deployment=deployment, host=host, gpu_uuids=["GPU-1"])
        other = await in_db(make_host)(name="beta")
        await in_db(make_replica)(deployment=deployment, host=other)

        reply = await agent.sync()

        (order,) = reply.replicas
        assert order.replica_id == str(mine.pk)
        assert order.desired is DesiredPhase.RUNNING
        assert order.spec.gpu_uuids == ("GPU-1",)

    async def test_a_tombstone_stays_until_the_agent_says_it_is_gone(self, agent, host):
        replica = await in_db(make_replica)(deployment=await in_db(make_deployment)(), host=host)
        await in_db(actions.order_gone)(replica, now=clock.now(), why="test", actor="x")

        reply = await agent.sync()
        assert [order.desired for order in reply.replicas] == [DesiredPhase.ABSENT]

        gone = make_report(replica, ObservedPhase.STOPPED, generation=2)
        await agent.report(1, gone)
        assert (await agent.sync(agent_epoch=1)).replicas == ()

    async def test_holds_the_answer_until_something_changes(self, agent, host, listener):
        first = await agent.sync()
        waiting = asyncio.create_task(
            agent.sync(
                agent_epoch=1,
                known_incarnation=first.incarnation,
                known_revision=first.revision,
                wait_seconds=20.0,
            )
        )
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done

        await in_db(fleet_actions.bump_revision)(host)
        listener.heard(doorbell.host_topic(host.pk))

        assert (await asyncio.wait_for(waiting, 1)).revision == first.revision + 1

    async def test_a_ring_between_two_looks_is_heard_at_the_next(self, listener):
        with listener.hears("host:1") as ear:
            listener.heard("host:1")

            assert await ear.rings(1.0)
            assert not await ear.rings(0.01)

    async def test_a_lost_doorbell_costs_about_a_second(self, agent, host):
        first = await agent.sync()
        waiting = asyncio.create_task(
            agent.sync(
                agent_epoch=1,
                known_incarnation=first.incarnation,
                known_revision=first.revision,
                wait_seconds=20.0,
            )
        )
        await asyncio.wait({waiting}, timeout=0.1)

        await in_db(fleet_actions.bump_revision)(host)

        assert (await asyncio.wait_for(waiting, 3)).revision == first.revision + 1

    async def test_an_older_agent_of_the_same_host_is_fenced_off(self, agent):
        await agent.sync(session_id="old")
        await agent.sync(session_id="new")

        response = await agent.post("sync", SyncRequest(session_id="old", agent_epoch=1))

        assert (response.status_code, response.json()["code"]) == (409, "fenced")

    async def test_an_epoch_of_a_database_that_was_lost_gets_a_new_one(self, agent):
        reply = await agent.sync(session_id="s1", agent_epoch=7)

        assert reply.agent_epoch == 1


class TestReport:
    async def phase(self, replica: Replica) -> str:
        return (await Replica.objects.aget(pk=replica.pk)).phase

    async def test_moves_the_replica(self, agent, host):
        replica = await in_db(make_replica)(
            deployment=await in_db(make_deployment)(), host=host, phase=ReplicaPhase.STARTING
        )
        await agent.sync()

        response = await agent.report(1, make_report(replica, ObservedPhase.READY))

        assert response.json() == {"accepted": True}
        assert await self.phase(replica) == ReplicaPhase.READY

    async def test_is_asked_for_again_in_words_when_the_database_is_away(
        self, agent, host, monkeypatch
    ):
        replica = await in_db(make_replica)(deployment=await in_db(make_deployment)(), host=host)
        await agent.sync()

        def busy(*_: object) -> None:
            raise OperationalError("database is locked")

        with monkeypatch.context() as away:
            away.setattr(endpoints.sessions, "advance", busy)
            refused = await agent.report(1, make_report(replica, ObservedPhase.FAILED))
        await agent.report(2, make_report(replica, ObservedPhase.FAILED))

        assert (refused.status_code, refused.json()["code"]) == (503, "database")
        assert await self.phase(replica) == ReplicaPhase.FAILED

    async def test_drops_one_that_is_not_newer_than_the_last(self, agent, host):
        replica = await in_db(make_replica)(deployment=await in_db(make_deployment)(), host=host)
        await agent.sync()
        await agent.report(5)

        late = await agent.report(4, make_report(replica, ObservedPhase.FAILED))

        assert late.json()["accepted"] is False
        assert await self.phase(replica) == ReplicaPhase.READY

    async def test_drops_one_that_another_process_has_overtaken(self, agent, host, listener):
        replica = await in_db(make_replica)(deployment=await in_db(make_deployment)(), host=host)
        await agent.sync()
        await in_db(Host.objects.filter(pk=host.pk).update)(report_seq=9)

        await agent.report(4, make_report(replica, ObservedPhase.FAILED))

        assert await self.phase(replica) == ReplicaPhase.READY

    async def test_fences_off_an_older_epoch(self, agent):
        await agent.sync(session_id="old")
        await agent.sync(session_id="new")
        await agent.report(1, epoch=2)

        assert (await agent.report(7, epoch=1)).status_code == 409


class TestReads:
    async def test_a_log_is_asked_for_by_sync_and_answered_once(self, agent, host):
        replica = await in_db(make_replica)(deployment=await in_db(make_deployment)(), host=host)
        request = await in_db(actions.request_log)(replica, lines=7, now=clock.now())

        (order,) = (await agent.sync()).requests
        assert (order.request_id, order.lines) == (str(request.pk), 7)

        answer = ReadReply(request_id=order.request_id, lines=("a", "b"))
        assert (await agent.post(f"replies/{order.request_id}", answer)).status_code == 200
        assert (await agent.post(f"replies/{order.request_id}", answer)).status_code == 404
        kept = await ReadRequest.objects.aget(pk=request.pk)
        assert kept.answer["lines"] == ["a", "b"]
        assert (await agent.sync(agent_epoch=1)).requests == ()
