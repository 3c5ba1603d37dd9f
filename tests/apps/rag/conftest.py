"""Fixtures of the knowledge bases' tests: the real embedded Milvus, and a gateway that is ours."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from django.conf import settings as django_settings

from apps.accounts.models import User
from apps.rag import unpandas, vectors
from tests.apps.accounts.people import client_of
from tests.apps.rag import shelf
from tests.apps.rag.gateway import Gateway

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 180.0


@pytest.fixture(scope="session")
def milvus_lite() -> None:
    """Change Milvus Lite in this process as `vectord` does."""
    unpandas.forbid()
    swift, steady = import_module("apps.rag.swift"), import_module("apps.rag.steady")
    swift.install()
    steady.install()


@pytest.fixture(scope="session")
def milvus() -> Iterator[Path]:
    """Run the `vectors` process for the whole session; give its folder."""
    folder = Path(django_settings.DATA_DIR) / "milvus"
    run = Path(django_settings.RUN_DIR)
    run.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "apps.rag.vectord"]
    process = subprocess.Popen(
        [*command, "--folder", str(folder), "--socket", str(vectors.socket_path())], cwd=ROOT
    )
    deadline = time.monotonic() + START_SECONDS
    pause = threading.Event()
    while not Path(f"{vectors.socket_path()}:0").exists():
        assert time.monotonic() < deadline, "no Milvus"
        assert process.poll() is None
        pause.wait(0.05)
    yield folder
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture
def gateway(settings) -> Iterator[Gateway]:
    """Give a gateway that answers by rule, and settings that lead to it."""
    with Gateway() as made:
        settings.GATEWAY_ADDR = made.address
        yield made


@pytest.fixture
def user(db: None) -> User:
    return shelf.user()


@pytest.fixture
def api(user: User):
    """Give a client of the REST API as an operator of the default team."""
    return client_of(user)
