"""The browser's socket: live numbers once a second, and a word when something else changed.

`/ws/live/?topic=deployment:llama&epoch=…&seq=…`. Numbers cross as frames (`frames`); a structural
change crosses as `{"type": "changed", "kinds": [...]}`, upon which the page fetches its live part
again: the same partial, with its filters and the person's rights. Signed-in people only, asked
again each minute. Numbers are dropped for a slow reader, changes never.
"""

import asyncio
import contextlib
import json
import logging
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs

import redis
from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError

from apps.dashboard import queries
from apps.dashboard.frames import Builder
from apps.lib import live
from apps.rag import queries as knowledge
from apps.telemetry.live import anumbers

logger = logging.getLogger(__name__)

SESSION_CHECK_SECONDS = 60.0
GATHER_SECONDS = 0.03
"""Changes of one transaction come together; they cross as one message."""

SIGNED_OUT = 4401
"""Close code: the page goes to the sign-in form."""


@cache
def builder_of(_loop_id: int) -> Builder:
    """Return the one builder of an event loop, that is of a web process."""
    return Builder(read=anumbers)


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    """One open page."""

    async def connect(self) -> None:
        """Accept a signed-in person's page and start sending; refuse anyone else."""
        if not self.scope["user"].is_authenticated:
            await self.accept()
            await self.close(code=SIGNED_OUT)
            return
        query = parse_qs(self.scope["query_string"].decode())
        self.topic = query.get("topic", [""])[0][:80]
        self.known = (query.get("epoch", [""])[0], _number(query.get("seq", ["0"])[0]))
        self.kinds: set[str] = set()
        self.replicas: frozenset[str] = frozenset()
        self.news = asyncio.Event()
        await self.accept()
        self.joined = await self._join()
        self.task = asyncio.create_task(self._serve())

    async def disconnect(self, code: int) -> None:
        """Leave the groups and end what sends."""
        if not hasattr(self, "task"):
            return
        self.task.cancel()
        for group in self.joined:
            with contextlib.suppress(redis.RedisError, OSError):
                await self.channel_layer.group_discard(group, self.channel_name)

    async def changed(self, message: dict[str, Any]) -> None:
        """Note a structural change (the one type of `apps.lib.live`); `_tell_changes` sends it."""
        self.kinds.add(message["kind"])
        self.news.set()

    async def _join(self) -> list[str]:
        kind, _, name = self.topic.partition(":")
        groups = [live.FLEET]
        if kind == "deployment" and name.replace("-", "").isalnum() and name.isascii():
            groups.append(live.deployment_group(name))
        if kind == "knowledge":
            groups += await database_sync_to_async(self._knowledge_groups)(name)
        try:
            for group in groups:
                await self.channel_layer.group_add(group, self.channel_name)
        except (redis.RedisError, OSError) as error:
            logger.warning("page without live changes: %s", error)
        return groups

    def _knowledge_groups(self, name: str) -> list[str]:
        """Return the group of a knowledge base of the person's own team; none for any other."""
        found = knowledge.knowledge_bases(self.scope["user"]).filter(slug=name).first()
        return [live.knowledge_group(found.uid)] if found else []

    async def _serve(self) -> None:
        """Send until the socket closes. A failure here closes it, and the page comes back."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_frames())
                group.create_task(self._tell_changes())
                group.create_task(self._watch_session())
        except* (OSError, RuntimeError, DatabaseError) as group_error:
            logger.info("live socket ended: %s", group_error.exceptions[0])
        with contextlib.suppress(OSError, RuntimeError):  # the page may be gone already
            await self.close()

    async def _send_frames(self) -> None:
        await self._find_replicas()
        builder = builder_of(id(asyncio.get_running_loop()))
        epoch, seq = self.known
        async with builder.watching():
            while True:
                frame = await builder.next(epoch, seq)
                await self._send(frame.message(self.topic, self.replicas))
                epoch, seq = frame.epoch, frame.seq

    async def _tell_changes(self) -> None:
        while True:
            await self.news.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self.news.clear()
            kinds, self.kinds = sorted(self.kinds), set()
            await self._find_replicas()
            await self._send({"type": "changed", "kinds": kinds})

    async def _find_replicas(self) -> None:
        """Look up which replicas a deployment's page shows: the others' numbers stay off it."""
        kind, _, name = self.topic.partition(":")
        if kind == "deployment":
            found = await database_sync_to_async(queries.replica_ids)(name)
            self.replicas = frozenset(found)

    async def _watch_session(self) -> None:
        while await self._signed_in():  # noqa: ASYNC110 - a question to the database, not a flag
            await asyncio.sleep(SESSION_CHECK_SECONDS)
        await self.close(code=SIGNED_OUT)

    async def _signed_in(self) -> bool:
        """Return whether the session of this socket is still one of an active person."""
        engine = import_module(settings.SESSION_ENGINE)
        session = engine.SessionStore(self.scope["session"].session_key)
        await database_sync_to_async(session.load)()
        user = await get_user({**self.scope, "session": session})
        return bool(user.is_authenticated and user.is_active)

    async def _send(self, message: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps(message, separators=(",", ":")))


def _number(text: str) -> int:
    return int(text) if text.isdigit() and len(text) < 16 else 0
