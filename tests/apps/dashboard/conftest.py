"""Fixtures of the pages' tests: a signed-in client, the real web app, a real browser."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from django.core.management import call_command
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from apps.accounts.models import User
from apps.accounts.states import Role
from tests.apps.dashboard import factories

CHROMIUM = next(
    (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()),
    "/usr/bin/chromium",
)


@pytest.fixture(scope="session", autouse=True)
def static_files() -> None:
    """Collect the static files once: pages name them by their hashes."""
    call_command("collectstatic", interactive=False, verbosity=0)


@pytest.fixture
def admin(db: None) -> User:
    return factories.user("ana", Role.ADMIN)


@pytest.fixture
def signed_in(admin: User, redis: object) -> Client:
    client = Client()
    client.force_login(admin)
    return client


@pytest.fixture
def viewer(db: None, redis: object) -> Client:
    client = Client()
    client.force_login(factories.user("vic", Role.VIEWER))
    return client
