"""The connections to Redis: one pool per process for sync code, one per event loop for async."""

from functools import cache

import redis
import redis.asyncio
from django.conf import settings

from apps.lib.loops import per_loop

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


@per_loop
def async_client() -> redis.asyncio.Redis:
    """Return the async client of the running event loop."""
    return redis.asyncio.Redis.from_url(
        settings.REDIS_URL, socket_connect_timeout=_TIMEOUT_SECONDS, health_check_interval=15
    )
