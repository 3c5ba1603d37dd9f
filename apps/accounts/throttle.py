"""Slows down guessing of passwords: ten wrong ones by one address for one name, then a pause.

Counted in Redis for 15 minutes. Without Redis nothing is counted and people can still sign in:
passwords are at least 12 characters behind Argon2, so a pause is a second fence, not the first.
Called by `forms.SignInForm`.
"""

import hashlib
import logging

import redis

from apps.lib.redis import client

logger = logging.getLogger(__name__)

MOST_FAILURES = 10
WINDOW_SECONDS = 15 * 60


def wait_seconds(name: str, address: str) -> int:
    """Return for how long this pair must wait; 0 if it may try."""
    key = _key(name, address)
    try:
        failures = int(client().get(key) or 0)
        return max(1, int(client().ttl(key))) if failures >= MOST_FAILURES else 0
    except redis.RedisError as error:
        logger.warning("sign-in failures are not counted: %s", error)
        return 0


def note_failure(name: str, address: str) -> None:
    """Count one wrong password; the window starts with the first one."""
    key = _key(name, address)
    try:
        if client().incr(key) == 1:
            client().expire(key, WINDOW_SECONDS)
    except redis.RedisError as error:
        logger.warning("sign-in failure not counted: %s", error)


def forget(name: str, address: str) -> None:
    """Start from zero after a right password."""
    try:
        client().delete(_key(name, address))
    except redis.RedisError as error:
        logger.warning("sign-in failures not cleared: %s", error)


def _key(name: str, address: str) -> str:
    pair = hashlib.sha256(f"{name.lower()}\0{address}".encode()).hexdigest()
    return f"hearth:sign-in:{pair[:32]}"
