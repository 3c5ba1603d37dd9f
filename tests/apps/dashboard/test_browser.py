"""The pages in Chromium: no console error, no violation of WCAG, keys, live updates."""

import statistics
import threading
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from agents.wire import EngineKind
from apps.deployments.models import Deployment, Replica
from apps.lib import clock, live
from apps.traffic.models import ModelAlias
from tests.apps.dashboard import factories

pytestmark = pytest.mark.browser

PAGES = [
    "/",
    "/catalog/",
    "/catalog/smollm2-135m-instruct/",
    "/deployments/",
    "/deployments/smol/",
    "/deployments/smol/settings/",
    "/deployments/smol/scaling/",
    "/deployments/smol/placement/",
    "/deployments/qwen/",
    "/deployments/broken/",
    "/deployments/rolling/revisions/",
    "/deployments/sim/revisions/",
    "/deployments/smol/starts/",
    "/pool/",
    "/hosts/",
    "/playground/",
    "/keys/",
    "/usage/",
    "/activity/",
    "/audit/?verify=1",
    "/settings/",
    "/deployments/smol/delete/",
]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WIDTHS = [320, 360, 390, 560, 768, 1024, 1280, 1440, 1920]
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def fleet(visitor):
    """Something of everything that a page can show."""
    now = clock.now()
    box = factories.host("box", last_seen_at=now)
    gpus = factories.host("gpu-with-a-long-name-01", gpus=4, last_seen_at=now)
    smol = factories.deployment("smol", phase="ready", replicas=2)
    factories.replica(smol, box)
    qwen = factories.deployment("qwen", phase="starting", gpus=1)
    uuids = [gpus.inventory["gpus"][0]["uuid"]]
    progress = {"stage": "weights", "done": 4, "total": 10, "eta_seconds": 9}
    factories.replica(
        qwen, gpus, "fetching", progress=progress, gpu_uuids=uuids, stage_seconds={"engine": 3.0}
    )
    broken = factories.deployment("broken", phase="failed", reason="out of memory")
    log = ["a long line of a log " * 12, "the last words"]
    factories.replica(broken, box, "failed", code="oom", exit_code=1, log_tail=log)
    factories.deployment("sim", phase="degraded", engine=EngineKind.SIMULATOR)
    factories.placement(smol)
    rolling = factories.deployment("rolling", phase="scaling", reason="revision 2 is judged")
    factories.replica(rolling, box)
    factories.canary(rolling, box, now=now)
    factories.warm(smol, box)
    ModelAlias.objects.create(
        name="org/gpt-4o-mini", deployment=smol, created_by="root", created_at=now
    )
    factories.event("smol is ready", deployment="smol", at=now)
    factories.event("box went silent", severity="warning", host="box", at=now)
    return smol


def tell(kind: str, **ids: str) -> None:
    """Publish a change as another process does: this thread already runs a loop."""
    sender = threading.Thread(target=live.publish, args=(live.FLEET, kind), kwargs=ids)
    sender.start()
    sender.join()


def wait_until_live(page: Page) -> None:
    """Wait for the first numbers on the page's socket."""
    page.wait_for_function("() => window.hearthPaint?.length")


@pytest.mark.timeout(400)
class TestEveryPage:
    """Each test walks through all pages, which two loaded cores need minutes for."""

    @pytest.mark.parametrize("theme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1440, 390])
    def test_axe_finds_nothing(self, visitor, fleet, theme, width):
        page = visitor.open("/", width=width, theme=theme)
        found = {}
        for path in PAGES:
            page.goto(path)
            page.wait_for_load_state("load")
            run = Axe().run(page, options={"runOnly": RULES})
            found[path] = [
                f"{v['id']}: {v['nodes'][0]['html'][:150]} {v['nodes'][0]['failureSummary'][:200]}"
                for v in run.response["violations"]
            ]

        assert {path: wrong for path, wrong in found.items() if wrong} == {}

    def test_nothing_scrolls_sideways_at_any_width(self, visitor, fleet):
        page = visitor.open("/")
        found = []
        for path in PAGES:
            page.goto(path)
            page.evaluate("() => document.fonts.ready")
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                if page.evaluate(SIDEWAYS) > 0:
                    found.append((path, width))

        assert found == []

    def test_reads_without_script(self, visitor, fleet):
        page = visitor.open("/deployments/smol/", java_script_enabled=False)

        expect(page.get_by_role("heading", name="smol")).to_be_visible()
        expect(page.get_by_text("1 of 2 replicas")).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status")).to_contain_text("smol drains and stops")
        assert Deployment.objects.get(name="smol").desired == "stopped"


class TestKeyboard:
    def test_slash_goes_to_the_filter(self, visitor, fleet):
        page = visitor.open("/deployments/")

        page.keyboard.press("/")

        expect(page.get_by_role("searchbox", name="Filter deployments")).to_be_focused()

    def test_the_palette_goes_to_a_deployment(self, visitor, fleet):
        page = visitor.open("/")

        page.keyboard.press("Control+k")
        page.keyboard.type("smol")
        expect(page.get_by_role("option", name="smol").first).to_be_visible()
        page.get_by_role("option", name="smol Live").wait_for()
        page.keyboard.press("Enter")

        page.wait_for_url("**/deployments/smol/")

    def test_escape_closes_the_palette_and_gives_the_focus_back(self, visitor, fleet):
        page = visitor.open("/")
        page.get_by_role("button", name="Search or run").click()

        page.keyboard.press("Escape")

        expect(page.get_by_role("dialog", name="Command palette")).to_be_hidden()
        expect(page.get_by_role("button", name="Search or run")).to_be_focused()

    def test_the_first_tab_skips_to_the_content(self, visitor, fleet):
        page = visitor.open("/deployments/")

        page.keyboard.press("Tab")

        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()

    def test_the_row_menu_works_by_keys(self, visitor, fleet):
        page = visitor.open("/deployments/")
        page.get_by_role("button", name="Actions for smol").press("Enter")
        expect(page.get_by_role("menuitem", name="Open", exact=True)).to_be_focused()

        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("menuitem", name="Stop")).to_be_focused()
        expect(page.get_by_role("menuitem", name="Start")).to_be_hidden()
        page.keyboard.press("Escape")

        expect(page.get_by_role("menu")).to_be_hidden()

    def test_deleting_asks_for_the_name(self, visitor, fleet):
        page = visitor.open("/deployments/smol/")
        page.get_by_role("link", name="Delete").click()
        dialog = page.get_by_role("dialog")
        field = dialog.get_by_role("textbox")
        expect(field).to_be_focused()

        field.fill("smo")
        expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
        field.fill("smol")
        dialog.get_by_role("button", name="Delete").click()

        page.wait_for_url("**/deployments/")
        assert Deployment.objects.get(name="smol").desired == "deleted"


class TestLive:
    def test_a_change_in_the_database_reaches_an_open_page_fast(self, visitor, fleet):
        page = visitor.open("/deployments/smol/")
        wait_until_live(page)
        took = []
        for number in range(11):
            Deployment.objects.filter(name="smol").update(phase="scaling", reason=f"round {number}")
            before = time.monotonic()
            tell("deployment", deployment="smol")
            page.wait_for_function(
                "text => document.querySelector('.phead').textContent.includes(text)",
                arg=f"round {number}",
                polling=10,
            )
            took.append(time.monotonic() - before)

        assert statistics.median(took) < 0.3, took

    def test_a_new_deployment_appears_in_the_list(self, visitor, fleet):
        page = visitor.open("/deployments/")
        wait_until_live(page)

        factories.deployment("newcomer", phase="starting")
        tell("deployment", deployment="newcomer")

        expect(page.get_by_role("link", name="newcomer")).to_be_visible()

    @pytest.mark.parametrize("name", ["qwen", "broken"])
    def test_charts_stay_when_the_start_or_the_failure_goes(self, visitor, fleet, name):
        page = visitor.open(f"/deployments/{name}/")
        wait_until_live(page)
        expect(page.locator("#charts canvas")).to_have_count(4)
        page.evaluate("() => document.querySelector('#charts canvas').dataset.mine = 'yes'")

        Replica.objects.filter(deployment__name=name).update(phase="ready", progress=None)
        Deployment.objects.filter(name=name).update(phase="ready")
        tell("deployment", deployment=name)

        expect(page.get_by_text("Live", exact=True).first).to_be_visible()
        expect(page.locator("#starting, #failure")).to_have_count(0)
        expect(page.locator("#charts canvas[data-mine=yes]")).to_have_count(1)

    def test_a_paused_page_stays_as_it_is(self, visitor, fleet):
        page = visitor.open("/deployments/")
        wait_until_live(page)
        page.keyboard.press("p")
        expect(page.get_by_role("button", name="Paused")).to_be_visible()

        factories.deployment("newcomer", phase="starting")
        tell("deployment", deployment="newcomer")
        frames = page.evaluate("performance.now()")
        page.wait_for_function("from => performance.now() - from > 400", arg=frames)

        expect(page.get_by_role("link", name="newcomer")).to_have_count(0)
        page.keyboard.press("p")
        expect(page.get_by_role("link", name="newcomer")).to_be_visible()

    def test_what_a_person_types_survives_a_change(self, visitor, fleet):
        page = visitor.open("/deployments/")
        wait_until_live(page)
        field = page.get_by_role("searchbox", name="Filter deployments")
        field.press_sequentially("sm")
        page.wait_for_url("**/?q=sm")

        Deployment.objects.filter(name="smol").update(phase="degraded")
        tell("deployment", deployment="smol")

        expect(page.get_by_role("img", name="Degraded").first).to_be_visible()
        expect(field).to_be_focused()
        expect(field).to_have_value("sm")

    def test_the_theme_is_kept(self, visitor, fleet):
        page = visitor.open("/settings/")

        page.get_by_role("button", name="Dark", exact=True).click()
        page.reload()

        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        expect(page.get_by_role("button", name="Dark", exact=True)).to_have_attribute(
            "aria-pressed", "true"
        )


def test_the_form_asks_where_the_wish_fits(visitor, fleet):
    page = visitor.open("/catalog/smollm2-135m-instruct/")

    page.get_by_label("Host").select_option("box")

    expect(page.get_by_text("Fits box now")).to_be_visible()
