"""The same story by mouse and keyboard: Chromium, the real vLLM, and nothing but the pages."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from tests.running import Hearth

pytestmark = [pytest.mark.engine, pytest.mark.browser, pytest.mark.timeout(600)]

READY_SECONDS = 420.0
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CHROMIUM = "/usr/bin/chromium"
QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A fresh browser; an error on its console fails the story."""
    errors: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.on("console", hear)
        page.set_default_timeout(20_000)
        yield page
        browser.close()
    assert errors == []


def violations(page: Page) -> list[str]:
    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    return [f"{row['id']}: {[node['html'] for node in row['nodes']]}" for row in found]


class TestStory:
    """Each test goes on where the one before it ended."""

    def test_a_person_signs_in(self, served: Hearth, page: Page):
        page.goto(served.web + "/")
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password").fill((served.data / "admin_password").read_text().strip())
        page.keyboard.press("Enter")

        expect(page.get_by_role("navigation").first).to_be_visible()
        assert violations(page) == []

    def test_deploys_a_model_with_one_click(self, served: Hearth, page: Page):
        page.goto(served.web + "/catalog/?q=smollm2")
        assert violations(page) == []
        page.get_by_role("button", name=re.compile("^Deploy SmolLM2 135M")).click()

        expect(page.get_by_role("heading", level=1)).to_contain_text("smollm2-135m-instruct")
        expect(page.get_by_role("heading", name="Starting")).to_be_visible()

    def test_watches_it_start_without_reloading(self, page: Page):
        expect(page.locator(".stepper [aria-current=step]")).to_be_visible(timeout=60_000)
        log = page.locator("[data-log]")
        expect(log).to_contain_text(re.compile("INFO|vllm|vLLM"), timeout=READY_SECONDS * 1000)
        badge = page.locator(".phead .badge").first
        expect(badge).to_contain_text("Live", timeout=READY_SECONDS * 1000)
        assert violations(page) == []

    def test_chats_with_it(self, page: Page):
        page.get_by_role("link", name="Open in playground").click()
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Message", exact=True).fill(QUESTION)
        page.keyboard.press("Enter")

        answer = page.locator("article.assistant").last
        expect(answer).to_contain_text("Paris", timeout=60_000)
        expect(answer.locator(".stats")).to_contain_text(
            re.compile(r"First token .* tokens/s .* output .* replica"), timeout=60_000
        )
        assert violations(page) == []

    def test_stops_an_answer_midway(self, page: Page):
        page.get_by_label("Message", exact=True).fill("Count from one to a thousand in words.")
        page.keyboard.press("Enter")
        expect(page.locator("article.assistant").last).to_contain_text(
            re.compile(r"\w"), timeout=60_000
        )
        page.get_by_role("button", name="Stop").click()

        expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=10_000)
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()

    def test_sees_the_numbers_move(self, served: Hearth, page: Page):
        name = re.search(r"model=([^&]+)", page.url)
        assert name
        page.goto(f"{served.web}/deployments/{name[1]}/")
        in_flight = page.locator("[data-k=in_flight]").first
        expect(in_flight).to_have_text("0")
        key = served.key()
        body = {
            "model": name[1],
            "messages": [{"role": "user", "content": "Tell a very long story."}],
            "stream": True,
            "max_tokens": 200,
            "ignore_eos": True,
        }
        with (
            served.client(key) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as stream,
        ):
            assert stream.status_code == 200
            expect(in_flight).to_have_text("1", timeout=1_500)
            expect(page.locator("[data-k=tps]").first).not_to_have_text("0", timeout=10_000)
            keep_picture(page, "deployment-light")
        expect(in_flight).to_have_text("0", timeout=5_000)
        assert violations(page) == []

    def test_deletes_it_by_typing_its_name(self, served: Hearth, page: Page):
        name = page.url.rstrip("/").rpartition("/")[2]
        page.get_by_role("link", name="Delete").first.click()
        page.get_by_role("dialog").get_by_role("textbox").fill(name)
        page.keyboard.press("Enter")

        expect(page.get_by_text(name)).to_have_count(0, timeout=90_000)


def keep_picture(page: Page, name: str) -> None:
    """Keep a picture of the page where somebody wants one (PICTURES_DIR names a folder)."""
    folder = os.environ.get("PICTURES_DIR")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")
