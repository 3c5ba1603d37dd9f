"""How soon a change reaches an open page, and whether a page costs the engine anything.

A person signs in by the form and opens the page of a deployment; a script orders another number of
replicas over REST. The time runs from sending that order, which includes its commit, until the
page's socket says `changed`, and further until the page's live part, fetched upon it as the page's
script does, shows the new number. Engine calls are counted on the engine's own socket (`tap`).
"""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import websockets

from bench.main.figures import Result, median, quantile
from bench.main.programs import program
from bench.main.tap import Tap, tapped
from tests.running import Hearth, hearth

CHANGES = 30
TARGET_MS = 300.0
VIEWS = 20
COUNT_SECONDS = 5.0
NAME = "smol"
PAGE = f"/deployments/{NAME}/"
QUIET_SECONDS = 0.5
"""Between two changes, so that the page has nothing left to hear of the one before."""
DEADLINE_SECONDS = 60.0
_AGENTS_ROUND = {("agent", "/metrics"), ("agent", "/health")}
"""What the agent asks each second and every few seconds, page or no page."""


def measure(folder: Path) -> Result:
    """Start Hearth in `folder` with a simulated deployment, and watch its page."""
    result = Result(part="live", question="how soon does a change reach an open page?")
    with hearth(folder / "live", HEARTH_RUNTIME="process", HEARTH_ENGINE="simulator") as instance:
        instance.deploy("smollm2-135m-instruct", name=NAME)
        instance.wait_for(NAME, "ready", DEADLINE_SECONDS)
        asyncio.run(_measure(instance, result))
    return result


async def _measure(instance: Hearth, result: Result) -> None:
    token = {"Authorization": f"Bearer {instance.token}"}
    async with (
        httpx.AsyncClient(base_url=instance.web, timeout=30, follow_redirects=True) as browser,
        httpx.AsyncClient(base_url=f"{instance.web}/api/v1", headers=token, timeout=30) as script,
    ):
        await _sign_in(instance, browser)
        await _count_calls(instance, browser, result)
        async with Page(instance.web, browser) as page:
            seconds = [await _change(page, script, 1 + n % 2) for n in range(1, CHANGES + 1)]
    heard, shown = ([1000 * one[n] for one in seconds] for n in (0, 1))
    result.add(f"order sent to page told, median of {CHANGES}", median(heard), "ms", TARGET_MS)
    result.add(f"order sent to page shows it, median of {CHANGES}", median(shown), "ms", TARGET_MS)
    result.add("order sent to page shows it, p90", quantile(shown, 0.9), "ms")
    result.add("order sent to page shows it, slowest", max(shown), "ms")


async def _sign_in(instance: Hearth, browser: httpx.AsyncClient) -> None:
    """Get a session as a person does: the form, the printed password."""
    form = await browser.get("/sign-in/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
    assert token, form.text
    password = (instance.data / "admin_password").read_text().strip()
    fields = {"csrfmiddlewaretoken": token[1], "username": "admin", "password": password}
    origin = {"Origin": instance.web}
    answer = await browser.post("/sign-in/", data=fields, headers=origin)
    assert answer.url.path == "/", f"not signed in: {answer.status_code} at {answer.url}"


@dataclass
class Page:
    """The deployment's page, open in a browser: its socket, and when it was told of changes."""

    web: str
    browser: httpx.AsyncClient
    told: asyncio.Queue[float] = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> "Page":
        """Load the page, open its socket, and wait for its first numbers."""
        answer = await self.browser.get(PAGE)
        assert answer.status_code == 200, answer.text
        cookies = "; ".join(f"{name}={value}" for name, value in self.browser.cookies.items())
        self._socket = await websockets.connect(
            f"ws://{urlsplit(self.web).netloc}/ws/live/?topic=deployment:{NAME}",
            origin=websockets.Origin(self.web),
            additional_headers={"Cookie": cookies},
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            while json.loads(await self._socket.recv())["type"] != "snapshot":
                pass
        self._hearing = asyncio.create_task(self._hear())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hearing.cancel()
        await self._socket.close()

    async def shows(self, text: str) -> bool:
        """Fetch the page's live part, as its script does, and look for `text`."""
        answer = await self.browser.get(PAGE, headers={"X-Part": "live"})
        assert answer.status_code == 200, answer.text
        return text in answer.text

    async def quiet(self) -> None:
        """Return when the page was told nothing for QUIET_SECONDS."""
        while True:
            try:
                await asyncio.wait_for(self.told.get(), QUIET_SECONDS)
            except TimeoutError:
                return

    async def _hear(self) -> None:
        async for message in self._socket:
            if json.loads(message)["type"] == "changed":
                self.told.put_nowait(time.perf_counter())


async def _change(page: Page, script: httpx.AsyncClient, wanted: int) -> tuple[float, float]:
    """Order `wanted` replicas; return the seconds until the page was told, and until it shows."""
    await page.quiet()
    async with asyncio.timeout(DEADLINE_SECONDS):
        began = time.perf_counter()
        body = {"scaling": {"min_replicas": wanted}}
        order = asyncio.create_task(script.patch(f"/deployments/{NAME}/", json=body))
        heard = await page.told.get()
        while not await page.shows(f"ready of {wanted} wanted"):
            await page.told.get()
        shown = time.perf_counter()
        answer = await order
        assert answer.status_code == 200, answer.text
        await _until(lambda: _is_settled(script, wanted))
    return heard - began, shown - began


async def _is_settled(script: httpx.AsyncClient, wanted: int) -> bool:
    found = (await script.get(f"/deployments/{NAME}/")).json()
    replicas = (await script.get(f"/deployments/{NAME}/replicas/")).json()["count"]
    return bool(found["phase"] == "ready" and found["ready_replicas"] == replicas == wanted)


# --- Calls to the engine -----------------------------------------------------------------------


async def _count_calls(instance: Hearth, browser: httpx.AsyncClient, result: Result) -> None:
    """Count the engine's calls with one page open, and while 20 more are opened."""
    async with tapped(_engine_socket(instance)) as tap:
        await _renew_agent(instance, tap)
        async with Page(instance.web, browser):
            before = await _calls(tap, asyncio.sleep(COUNT_SECONDS))
            during = await _calls(tap, _open_pages(instance.web, browser))
    extra = sum(count for call, count in during.calls.items() if call not in _AGENTS_ROUND)
    result.add(f"engine calls by {VIEWS} page views after the first", extra, "calls", 0)
    result.table.append(("engine calls a second", "one page open", f"{VIEWS} more opened"))
    for call in sorted(before.calls.keys() | during.calls.keys()):
        rates = (f"{counted.calls[call] / counted.seconds:.1f}" for counted in (before, during))
        result.table.append((" ".join(call), *rates))


async def _renew_agent(instance: Hearth, tap: Tap) -> None:
    """Make the agent connect anew, through the tap: its open connection bypasses it."""
    old = instance.child("agents")
    old.kill()
    await asyncio.to_thread(instance.new_child, "agents", old.pid, DEADLINE_SECONDS)

    async def sees_rounds() -> bool:
        return sum(tap.calls.values()) > 3

    await _until(sees_rounds)


async def _open_pages(web: str, browser: httpx.AsyncClient) -> None:
    """Open 20 pages one after the other, and keep all of them open for a while."""
    async with contextlib.AsyncExitStack() as pages:
        for _ in range(VIEWS):
            await pages.enter_async_context(Page(web, browser))
        await asyncio.sleep(COUNT_SECONDS)


@dataclass(frozen=True)
class Counted:
    """Calls of the engine during some seconds, by program and path."""

    calls: Counter[tuple[str, str]]
    seconds: float


async def _calls(tap: Tap, meanwhile: Coroutine[None, None, None]) -> Counted:
    """Return the calls that were made while `meanwhile` ran."""
    before, began = tap.calls.copy(), time.perf_counter()
    await meanwhile
    made: Counter[tuple[str, str]] = Counter()
    for (pid, path), count in (tap.calls - before).items():
        made[program(pid), path] += count
    return Counted(made, time.perf_counter() - began)


def _engine_socket(instance: Hearth) -> Path:
    found = list((instance.data / "agent" / "run").glob("*/engine.sock"))
    assert len(found) == 1, f"one engine was expected: {found}"
    return found[0]


async def _until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await check():  # noqa: ASYNC110 - a question to the API, not a flag
            await asyncio.sleep(0.2)
