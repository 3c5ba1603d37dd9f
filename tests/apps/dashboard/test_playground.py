"""The playground's stream, through the real web app to a gateway's door that is a real socket."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from django.conf import settings
from django.test import Client

from apps.traffic.models import ApiKey
from tests.apps.dashboard import factories

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 20.0
CHAT = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}]}
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-hearth-replica: r-1\r\n"
    b"x-secret: keep\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass
class Gateway:
    """Answers each request with one event, holds the stream, and notices who hangs up."""

    address: str = ""
    head: bytes = HEAD
    hold: bool = True
    silent: bool = False
    requests: list[bytes] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        self.asked.set()
        if self.silent:  # the queue of a busy deployment: nothing comes yet
            await reader.read()
            self.hung_up.set()
            return
        event = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
        writer.write(self.head + b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        if self.hold:
            await reader.read()
            self.hung_up.set()
        else:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()


@pytest.fixture
def gateway(settings) -> Iterator[Gateway]:
    made = Gateway()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(made.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    port = server.sockets[0].getsockname()[1]
    made.address = settings.GATEWAY_ADDR = f"127.0.0.1:{port}"
    yield made
    loop.call_soon_threadsafe(loop.stop)
    thread.join(SECONDS)


@pytest.fixture
async def caller(site, redis) -> AsyncIterator[httpx.AsyncClient]:
    """A signed-in person's HTTP client with a CSRF token."""

    def sign_in() -> Client:
        client = Client()
        client.force_login(factories.user())
        return client

    client = await asyncio.to_thread(sign_in)
    name = settings.SESSION_COOKIE_NAME
    cookies = {name: client.cookies[name].value, "csrftoken": "t" * 32}
    headers = {"X-CSRFToken": "t" * 32}
    async with httpx.AsyncClient(
        base_url=site, cookies=cookies, headers=headers, timeout=SECONDS, trust_env=False
    ) as made:
        yield made


async def test_an_answer_is_passed_on_chunk_by_chunk(gateway, caller):
    async with caller.stream("POST", "/playground/stream/", json=CHAT) as reply:
        first = await anext(reply.aiter_bytes())

    assert b"Hello" in first
    assert reply.headers["x-hearth-replica"] == "r-1"
    assert "x-secret" not in reply.headers


async def test_the_gateway_is_called_with_the_persons_own_key(gateway, caller):
    gateway.hold = False

    await caller.post("/playground/stream/", json={**CHAT, "temperature": 0.5, "tools": ["no"]})

    head, _, body = gateway.requests[0].partition(b"\r\n\r\n")
    key = await asyncio.to_thread(ApiKey.objects.select_related("owner").get)
    assert key.prefix.encode() in head
    assert (key.internal, key.owner.username) == (True, "ana")
    assert json.loads(body) == {
        **CHAT,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
    }


async def test_stopping_in_the_middle_closes_the_call(gateway, caller):
    async with caller.stream("POST", "/playground/stream/", json=CHAT) as reply:
        await anext(reply.aiter_bytes())

    assert await asyncio.to_thread(gateway.hung_up.wait, SECONDS)


async def test_stopping_before_the_answer_begins_closes_the_call(gateway, caller):
    gateway.silent = True
    task = asyncio.create_task(caller.post("/playground/stream/", json=CHAT))
    assert await asyncio.to_thread(gateway.asked.wait, SECONDS)

    task.cancel()

    assert await asyncio.to_thread(gateway.hung_up.wait, SECONDS)


async def test_a_refusal_of_the_gateway_is_passed_on(gateway, caller):
    gateway.hold = False
    gateway.head = HEAD.replace(b"200 OK", b"429 Too Many Requests").replace(
        b"\r\n\r\n", b"\r\nretry-after: 7\r\n\r\n"
    )

    reply = await caller.post("/playground/stream/", json=CHAT)

    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")


async def test_an_absent_gateway_is_said(caller, settings):
    settings.GATEWAY_ADDR = "127.0.0.1:9"

    reply = await caller.post("/playground/stream/", json=CHAT)

    assert reply.status_code == 502
    assert reply.json()["code"] == "gateway_away"
    assert "127.0.0.1:9" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "JSON"),
        pytest.param(b"[" * 200_000, "JSON", id="nested without end"),
        (b"[]", "model"),
        (b'{"model": 7, "messages": [{}]}', "model"),
        (b'{"model": "smol", "messages": []}', "messages"),
        (b'{"model": "smol", "messages": "hi"}', "messages"),
    ],
)
async def test_a_bad_body_is_told_by_field(caller, body, field):
    reply = await caller.post("/playground/stream/", content=body)

    assert reply.status_code == 400
    assert field in reply.json()["detail"]


async def test_another_sites_form_is_refused(gateway, caller):
    del caller.headers["X-CSRFToken"]

    reply = await caller.post("/playground/stream/", json=CHAT)

    assert reply.status_code == 403
    assert gateway.requests == []


async def test_strangers_are_sent_to_the_sign_in_form(gateway, caller):
    caller.cookies.delete(settings.SESSION_COOKIE_NAME)

    reply = await caller.post("/playground/stream/", json=CHAT)

    assert reply.status_code == 302
    assert gateway.requests == []
