"""Fixtures of the pages' tests: signed-in clients, the real web app, a real Chromium."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from apps.accounts.models import User
from apps.accounts.states import Role
from tests.apps.dashboard import factories

CHROMIUM = next(
    (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()),
    "/usr/bin/chromium",
)
START_SECONDS = 30.0


@pytest.fixture(autouse=True)
def _static_files(static_files: None) -> None:
    """Every page names static files."""


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


@pytest.fixture(scope="session")
def site(redis_server: str, static_files: None, django_db_setup: None) -> Iterator[str]:
    """Serve the real ASGI app from a thread of this process; give its address."""
    from controlplane.asgi import application  # noqa: PLC0415 - only once Django is set up

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(START_SECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium. One a module: its loop would be in the way of async tests elsewhere."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@dataclass
class Visitor:
    """Opens pages as one person and gathers what goes wrong in them."""

    browser: Browser
    site: str
    cookie: str
    wrongs: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, path: str = "/", *, width: int = 1440, theme: str = "light", **more) -> Page:
        """Return a new page at `path`."""
        context = self.browser.new_context(
            base_url=self.site,
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            **more,
        )
        name = settings.SESSION_COOKIE_NAME
        context.add_cookies([{"name": name, "value": self.cookie, "url": self.site}])
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrongs.append(str(error)))
        page.goto(path, timeout=90_000)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.wrongs.append(f"{message.text} {message.location}")


@pytest.fixture
def visitor(
    site: str,
    browser: Browser,
    transactional_db: None,
    redis: object,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Visitor]:
    """Give a signed-in admin with a browser; fails on any error in a console."""
    # Sync Playwright keeps a loop running in this thread, which Django takes for async code.
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    client = Client()
    client.force_login(factories.user("ana", Role.ADMIN))
    made = Visitor(browser, site, client.cookies[settings.SESSION_COOKIE_NAME].value)
    yield made
    for context in made.contexts:
        context.close()
    assert made.wrongs == []


@pytest.fixture
def open_page(visitor: Visitor) -> Callable[..., Page]:
    return visitor.open
