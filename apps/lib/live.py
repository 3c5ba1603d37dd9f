"""Publish "this changed" to the browsers' sockets: the only user of the channel layer's send side.

Messages carry ids, never objects: a consumer reads the row itself. Sending is best effort; pages
are right again with the next snapshot.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

logger = logging.getLogger(__name__)

type _Message = tuple[str, str, tuple[tuple[str, str | int], ...]]

_kept: ContextVar[dict[_Message, None] | None] = ContextVar("kept", default=None)

FLEET = "fleet"
"""Group of every page: deployments and hosts as a whole."""


def deployment_group(name: str) -> str:
    """Return the group of one deployment's page; names are `[a-z0-9-]`, valid in group names."""
    return f"deployment.{name}"


def knowledge_group(uid: object) -> str:
    """Return the group of one knowledge base's pages."""
    return f"knowledge.{uid}"


def publish(group: str, kind: str, **ids: str | int) -> None:
    """Send `{"type": "changed", "kind": kind, **ids}` to `group` after commit. Never raises."""
    transaction.on_commit(lambda: _send(group, kind, ids), robust=True)


@contextmanager
def together() -> Iterator[None]:
    """Keep what this thread publishes and send it all at the end, the same message once.

    For passes that change many rows: a send of its own for each takes ten milliseconds.
    """
    if _kept.get() is not None:
        yield
        return
    messages: dict[_Message, None] = {}
    token = _kept.set(messages)
    try:
        yield
    finally:
        _kept.reset(token)
        if messages:
            _send_all(messages)


async def send(group: str, kind: str, **ids: str | int) -> None:
    """Send the same message at once, from async code outside any transaction. Never raises."""
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        await layer.group_send(group, {"type": "changed", "kind": kind, **ids})
    except (redis.RedisError, OSError) as error:
        logger.warning("live update not sent: %s", error)


def _send(group: str, kind: str, ids: dict[str, str | int]) -> None:
    message = group, kind, tuple(ids.items())
    kept = _kept.get()
    if kept is None:
        _send_all((message,))
    else:
        kept[message] = None


def _send_all(messages: Iterable[_Message]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return

    async def deliver() -> None:
        for group, kind, ids in messages:
            await layer.group_send(group, {"type": "changed", "kind": kind, **dict(ids)})

    try:
        async_to_sync(deliver)()
    except (redis.RedisError, OSError) as error:
        logger.warning("live updates not sent: %s", error)
