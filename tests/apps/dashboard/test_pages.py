"""Every page: complete without script, for an empty and a busy installation, for every role."""

import re

import pytest
from django.db import connection
from django.test import Client

from agents.wire import EngineKind
from apps.accounts.states import Role
from apps.dashboard import words
from apps.deployments.models import Deployment, ReadRequest
from apps.deployments.states import DeploymentPhase, ReplicaPhase
from apps.fleet.states import HostState
from apps.lib.addresses import gateway_url
from tests.apps.dashboard import factories

PAGES = [
    "/",
    "/catalog/",
    "/catalog/smollm2-135m-instruct/",
    "/deployments/",
    "/hosts/",
    "/playground/",
    "/keys/",
    "/usage/",
    "/usage/?by=key&range=24h",
    "/activity/",
    "/audit/?verify=1",
    "/settings/",
]
OF_ONE = ["/deployments/smol/", "/deployments/smol/?range=24h", "/deployments/smol/delete/"]


def text_of(response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


@pytest.fixture
def smol(db):
    """A deployment that serves with one replica on one host."""
    made = factories.deployment("smol", phase="ready")
    factories.replica(made, factories.host())
    factories.event(deployment="smol")
    return made


class TestEveryPage:
    @pytest.mark.parametrize("path", PAGES)
    def test_answers_on_an_empty_installation(self, signed_in, path):
        assert signed_in.get(path).status_code == 200

    @pytest.mark.parametrize("path", PAGES + OF_ONE)
    def test_answers_with_rows(self, signed_in, smol, path):
        assert signed_in.get(path).status_code == 200

    @pytest.mark.parametrize("path", PAGES + OF_ONE)
    def test_asks_strangers_to_sign_in(self, smol, path):
        response = Client().get(path)

        assert response.status_code == 302
        assert response["Location"].startswith("/sign-in/?next=")

    @pytest.mark.parametrize("path", PAGES + OF_ONE)
    def test_has_no_inline_script_or_style(self, signed_in, smol, path):
        html = signed_in.get(path).content.decode()

        assert not re.search(r"<script(?![^>]*(src=|application/json))", html)
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", html)

    @pytest.mark.parametrize("path", [p for p in PAGES if "settings" not in p and "usage" not in p])
    def test_renews_only_its_live_part(self, signed_in, smol, path):
        response = signed_in.get(path, headers={"X-Part": "live"})

        assert response.status_code == 200
        assert b"<html" not in response.content
        assert "X-Part" in response["Vary"]

    @pytest.mark.parametrize("path", PAGES)
    def test_viewers_may_look(self, viewer, smol, path):
        assert viewer.get(path).status_code == 200

    def test_an_unknown_deployment_is_a_404_with_near_names(self, signed_in, smol):
        response = signed_in.get("/deployments/smoll/")

        assert response.status_code == 404
        assert "smol" in text_of(response)


class TestLists:
    @pytest.mark.parametrize("path", ["/", "/deployments/", "/hosts/", "/playground/"])
    def test_cost_the_same_queries_for_one_row_and_for_twenty(
        self, signed_in, smol, path, django_assert_max_num_queries
    ):
        with django_assert_max_num_queries(60) as one:
            signed_in.get(path)
        for number in range(19):
            made = factories.deployment(f"more-{number}", phase="ready")
            factories.replica(made, factories.host(f"host-{number}"))

        with django_assert_max_num_queries(len(one)):
            signed_in.get(path)

    @pytest.mark.parametrize("path", ["/", "/deployments/", "/playground/"])
    def test_cost_the_same_queries_while_all_start(
        self, signed_in, path, django_assert_max_num_queries
    ):
        for number in range(20):
            made = factories.deployment(f"more-{number}", phase="starting")
            host = factories.host(f"host-{number}")
            factories.replica(made, host, phase="starting", progress={"stage": "load"})
            if number == 0:
                with django_assert_max_num_queries(60) as one:
                    signed_in.get(path)

        with django_assert_max_num_queries(len(one)):
            signed_in.get(path)

    def test_filters_by_status_and_by_words(self, signed_in, smol):
        factories.deployment("broken", phase="failed")

        assert "broken" not in text_of(signed_in.get("/deployments/?status=live"))
        assert "smol" not in text_of(
            signed_in.get("/deployments/?q=broken", headers={"X-Part": "live"})
        )

    def test_the_chips_count_all_deployments_under_a_filter(self, signed_in, smol):
        factories.deployment("broken", phase="failed")

        text = text_of(signed_in.get("/deployments/?status=live", headers={"X-Part": "live"}))

        assert "All 2" in text
        assert "Failed 1" in text

    def test_a_hundred_deployments_fit_on_a_page(self, signed_in):
        for number in range(101):
            factories.deployment(f"d-{number:03}", phase="stopped", desired="stopped")

        text = text_of(signed_in.get("/deployments/"))

        assert "100 of 101" in text
        assert "d-100" in text_of(signed_in.get("/deployments/?page=2"))

    def test_a_simulated_deployment_is_marked_on_every_page_that_shows_it(self, signed_in):
        factories.deployment("sim", phase="ready", engine=EngineKind.SIMULATOR)

        for path in ("/", "/deployments/", "/deployments/sim/", "/playground/"):
            assert "Simulated" in text_of(signed_in.get(path)), path

    def test_a_real_deployment_is_not(self, signed_in, smol):
        assert "Simulated" not in text_of(signed_in.get("/deployments/smol/"))


class TestWords:
    @pytest.mark.parametrize("phase", list(DeploymentPhase))
    def test_every_phase_of_a_deployment_has_one(self, phase):
        assert words.of_deployment(phase) in words.DEPLOYMENT_ORDER

    @pytest.mark.parametrize("phase", list(ReplicaPhase))
    def test_every_phase_of_a_replica_has_one(self, phase):
        assert words.of_replica(phase).word

    @pytest.mark.parametrize("state", list(HostState))
    def test_every_state_of_a_host_has_one(self, state):
        assert words.of_host(state).word

    def test_ready_is_live(self):
        assert words.of_deployment("ready").word == "Live"

    def test_a_cordoned_host_drains_unless_it_is_silent(self):
        assert words.of_host("ready", cordoned=True) == words.DRAINING
        assert words.of_host("unknown", cordoned=True) == words.UNKNOWN


class TestDeploymentPage:
    def test_tells_how_far_a_start_is(self, signed_in):
        made = factories.deployment("qwen", phase="starting")
        progress = {"stage": "weights", "done": 40, "total": 100, "eta_seconds": 12}
        factories.replica(
            made, factories.host(), "fetching", progress=progress, stage_seconds={"engine": 31.2}
        )

        text = text_of(signed_in.get("/deployments/qwen/"))

        assert "Engine , done 31.2 s" in text
        assert "Weights , under way 40%" in text
        assert "to go" in text

    def test_tells_why_it_failed_and_what_mends_it(self, signed_in):
        made = factories.deployment("qwen", phase="failed", reason="out of memory")
        failed = {
            "reason": "out of memory",
            "code": "oom",
            "exit_code": 137,
            "log_tail": ["last words"],
        }
        factories.replica(made, factories.host(), "failed", **failed)

        text = text_of(signed_in.get("/deployments/qwen/"))

        assert "out of memory" in text
        assert "Exit code 137" in text
        assert "last words" in text
        assert "more memory" in text

    def test_escapes_what_an_engine_printed(self, signed_in):
        made = factories.deployment("qwen", phase="failed")
        factories.replica(
            made, factories.host(), "failed", log_tail=["<img src=x onerror=alert(1)>"]
        )

        assert b"<img src=x" not in signed_in.get("/deployments/qwen/").content

    def test_has_snippets_with_the_real_address(self, signed_in, smol, settings):
        settings.GATEWAY_ADDR = "127.0.0.1:9100"

        text = text_of(signed_in.get("/deployments/smol/"))

        assert "curl http://127.0.0.1:9100/v1/chat/completions" in text
        assert "base_url=&quot;http://127.0.0.1:9100/v1&quot;" in text or "9100/v1" in text

    def test_marks_a_default_price(self, signed_in, smol):
        assert "$0.05 per hour default" in text_of(signed_in.get("/deployments/smol/"))

    def test_a_view_asks_nothing_of_an_engine(self, signed_in, smol):
        signed_in.get("/deployments/smol/")

        assert not ReadRequest.objects.exists()

    def test_viewers_get_no_buttons_that_change_something(self, viewer, smol):
        html = viewer.get("/deployments/smol/").content.decode()

        assert "formaction" not in html
        assert "/delete/" not in html


@pytest.mark.parametrize(
    ("listen", "page", "url"),
    [
        ("127.0.0.1:8080", "hearth.example", "http://127.0.0.1:8080/v1"),
        ("0.0.0.0:8080", "hearth.example:8000", "http://hearth.example:8080/v1"),
        ("[::]:8080", "[::1]:8000", "http://[::1]:8080/v1"),
        ("0.0.0.0:8080", "[::1]", "http://[::1]:8080/v1"),
    ],
)
def test_the_gateways_address_is_one_to_dial(listen, page, url):
    assert gateway_url(page, listen, secure=False) == url


def test_a_role_that_is_missing_is_named(viewer, smol):
    response = viewer.post("/deployments/smol/stop/")

    assert response.status_code == 403
    assert str(Role.OPERATOR) in text_of(response)


class TestADeploymentThatIsDeletedWhileAPageReadsIt:
    @pytest.fixture
    def vanishing(self, smol):
        """Between the deployments and their revisions, somebody else deletes them all."""
        gone = []

        def delete_first(execute, sql, params, many, context):
            if not gone and sql.startswith("SELECT") and 'FROM "deployments_revision"' in sql:
                gone.append(sql)
                Deployment.objects.all().delete()
            return execute(sql, params, many, context)

        with connection.execute_wrapper(delete_first):
            yield gone

    @pytest.mark.parametrize("path", ["/", "/deployments/", "/api/v1/deployments/"])
    def test_lists_go_on_without_it(self, signed_in, vanishing, path):
        answer = signed_in.get(path)

        assert answer.status_code == 200
        assert vanishing

    @pytest.mark.parametrize("path", ["/deployments/smol/", "/api/v1/deployments/smol/"])
    def test_its_own_answer_says_that_it_is_gone(self, signed_in, vanishing, path):
        answer = signed_in.get(path)

        assert answer.status_code == 404
        assert vanishing
