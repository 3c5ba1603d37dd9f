"""The connections to Redis: one pool per process for sync code, one per event loop for async."""

import asyncio
from functools import cache
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.conf import settings

_TIMEOUT_SECONDS = 5.0


@cache
def client() -> redis.Redis:
    """Return this process's sync client; it connects on first use."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        health_check_interval=15,
    )


_async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = (
    WeakKeyDictionary()
)


def async_client() -> redis.asyncio.Redis:
    """Return the async client of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _async_clients:
        _async_clients[loop] = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=_TIMEOUT_SECONDS, health_check_interval=15
        )
    return _async_clients[loop]
