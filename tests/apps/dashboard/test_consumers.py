"""The browser's socket against the real channel layer, Redis and sessions."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import OperationalError, transaction
from django.test import Client

from apps.accounts.models import User
from apps.dashboard import consumers
from apps.dashboard.routing import websocket_urlpatterns
from apps.lib import live
from tests.apps.dashboard import factories

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 5.0


@pytest.fixture(autouse=True)
def fresh_builder(redis):
    consumers.builder_of.cache_clear()


@asynccontextmanager
async def socket(cookie: str, **query: str) -> AsyncIterator[ApplicationCommunicator]:
    app = AuthMiddlewareStack(URLRouter(websocket_urlpatterns))
    scope = {
        "type": "websocket",
        "path": "/ws/live/",
        "query_string": urlencode(query).encode(),
        "headers": [(b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode())],
        "subprotocols": [],
    }
    opened = ApplicationCommunicator(app, scope)
    await opened.send_input({"type": "websocket.connect"})
    assert (await opened.receive_output(timeout=SECONDS))["type"] == "websocket.accept"
    try:
        yield opened
    finally:
        await opened.send_input({"type": "websocket.disconnect", "code": 1000})
        await opened.wait(timeout=SECONDS)


async def next_of(opened: ApplicationCommunicator, *kinds: str) -> dict:
    """Return the next message of one of `kinds`, passing over others."""
    async with asyncio.timeout(SECONDS):
        while True:
            message = json.loads((await opened.receive_output(timeout=SECONDS))["text"])
            if message["type"] in kinds:
                return message


@pytest.fixture
def cookie(db) -> str:
    client = Client()
    client.force_login(factories.user())
    return client.cookies[settings.SESSION_COOKIE_NAME].value


async def test_a_stranger_is_sent_to_the_sign_in_form():
    async with socket("nothing") as opened:
        message = await opened.receive_output(timeout=SECONDS)

    assert message == {"type": "websocket.close", "code": consumers.SIGNED_OUT} | {
        key: message[key] for key in message if key == "reason"
    }


async def test_a_page_whose_database_is_away_is_closed_so_that_it_comes_back(cookie, monkeypatch):
    def away(_name: str) -> list[str]:
        raise OperationalError("database is locked")

    monkeypatch.setattr(consumers.queries, "replica_ids", away)
    async with socket(cookie, topic="deployment:smol") as opened:
        message = await opened.receive_output(timeout=SECONDS)

    assert message["type"] == "websocket.close"


async def test_a_page_gets_a_snapshot_and_then_deltas(cookie):
    async with socket(cookie, topic="deployments") as opened:
        first = await next_of(opened, "snapshot")
        second = await next_of(opened, "delta")

    assert second["seq"] == first["seq"] + 1
    assert second["epoch"] == first["epoch"]


async def test_a_page_that_comes_back_gets_only_what_it_missed(cookie):
    async with socket(cookie, topic="deployments") as opened:
        first = await next_of(opened, "snapshot")
        async with socket(
            cookie, topic="deployments", epoch=first["epoch"], seq=str(first["seq"])
        ) as again:
            message = await next_of(again, "snapshot", "delta")

    assert message["type"] == "delta"


async def test_a_change_reaches_every_page(cookie):
    async with socket(cookie, topic="overview") as opened:
        await next_of(opened, "snapshot")
        await sync_to_async(live.publish)(live.FLEET, "event", deployment="smol")
        message = await next_of(opened, "changed")

    assert message["kinds"] == ["event"]


def publish_in_one_transaction(*kinds: str) -> None:
    with transaction.atomic():
        for kind in kinds:
            live.publish(live.FLEET, kind)


async def test_changes_of_one_transaction_come_as_one_message(cookie, monkeypatch):
    monkeypatch.setattr(consumers, "GATHER_SECONDS", 1.0)  # three sends of a loaded core
    async with socket(cookie, topic="overview") as opened:
        await next_of(opened, "snapshot")
        await sync_to_async(publish_in_one_transaction)("event", "deployment", "host")
        message = await next_of(opened, "changed")

    assert message["kinds"] == ["deployment", "event", "host"]


async def test_changes_of_another_deployment_stay_away(cookie):
    async with socket(cookie, topic="deployment:smol") as opened:
        await next_of(opened, "snapshot")
        await sync_to_async(live.publish)(live.deployment_group("other"), "replica")
        await sync_to_async(live.publish)(live.deployment_group("smol"), "deployment")
        message = await next_of(opened, "changed")

    assert message["kinds"] == ["deployment"]


@pytest.mark.parametrize("topic", ["deployment:../../x", "deployment:é", "nonsense", ""])
async def test_an_odd_topic_harms_nothing(cookie, topic):
    async with socket(cookie, topic=topic) as opened:
        message = await next_of(opened, "snapshot")

    assert message["seq"] >= 1


async def test_a_session_that_ends_closes_the_socket(cookie, monkeypatch):
    monkeypatch.setattr(consumers, "SESSION_CHECK_SECONDS", 0.05)
    async with socket(cookie, topic="overview") as opened:
        await next_of(opened, "snapshot")
        await sync_to_async(Session.objects.all().delete)()
        closed = await _until_closed(opened)

    assert closed["code"] == consumers.SIGNED_OUT


async def test_a_person_who_is_switched_off_loses_the_socket(cookie, monkeypatch):
    monkeypatch.setattr(consumers, "SESSION_CHECK_SECONDS", 0.05)
    async with socket(cookie, topic="overview") as opened:
        await next_of(opened, "snapshot")
        await sync_to_async(User.objects.update)(is_active=False)
        closed = await _until_closed(opened)

    assert closed["code"] == consumers.SIGNED_OUT


async def _until_closed(opened: ApplicationCommunicator) -> dict:
    async with asyncio.timeout(SECONDS):
        while True:
            message = await opened.receive_output(timeout=SECONDS)
            if message["type"] == "websocket.close":
                return message
