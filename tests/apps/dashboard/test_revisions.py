"""The tab Revisions: what it shows, and what is ordered from it."""

import pytest

from apps.deployments.models import Deployment, Rollout
from apps.deployments.states import RolloutStage, RolloutState
from tests.apps.dashboard import factories

pytestmark = pytest.mark.django_db

URL = "/deployments/rolling/"


@pytest.fixture
def rolling(redis) -> Deployment:
    made = factories.deployment("rolling", phase="scaling")
    box = factories.host()
    factories.replica(made, box)
    factories.canary(made, box, now=factories.NOW)
    return made


def rollout() -> Rollout:
    return Rollout.objects.get()


class TestShow:
    def test_tells_the_numbers_the_diff_and_the_yaml(self, signed_in, rolling):
        page = signed_in.get(f"{URL}revisions/").content.decode()

        assert "Revision 1 → 2" in page
        assert "71 of 200 (live: 640)" in page
        assert "settings.max_model_len" in page
        assert "catalog: smollm2-135m-instruct" in page

    def test_a_viewer_reads_but_gets_no_buttons(self, viewer, rolling):
        page = viewer.get(f"{URL}revisions/").content.decode()

        assert "Revision 1 → 2" in page
        assert "Promote</button>" not in page

    def test_costs_the_same_queries_for_any_number_of_revisions(
        self, signed_in, rolling, django_assert_max_num_queries
    ):
        signed_in.get(f"{URL}revisions/")

        with django_assert_max_num_queries(26):
            signed_in.get(f"{URL}revisions/")


class TestOrders:
    @pytest.mark.parametrize(
        ("order", "member", "value"),
        [
            ("promote", "stage", RolloutStage.PROMOTING),
            ("pause", "paused", True),
            ("rollback", "state", RolloutState.ROLLED_BACK),
        ],
    )
    def test_each_button_does_what_it_says(self, signed_in, rolling, order, member, value):
        answer = signed_in.post(f"{URL}{order}/")

        assert (answer.status_code, answer["Location"]) == (303, f"{URL}revisions/")
        assert getattr(rollout(), member) == value

    def test_a_viewer_may_order_nothing(self, viewer, rolling):
        assert viewer.post(f"{URL}rollback/").status_code == 403
        assert rollout().state == RolloutState.OPEN

    def test_the_strategy_is_for_changes_to_come(self, signed_in, rolling):
        values = {
            "strategy": "blue_green", "max_surge": 2, "max_unavailable": 0, "ready_seconds": 60,
            "shadow_ratio": 0.5, "weight_ratio": 0.1, "min_requests": 50, "auto_promote": "on",
        }  # fmt: skip
        signed_in.post(f"{URL}rollout/", values)

        policy = Deployment.objects.get().rollout
        assert (policy["strategy"], policy["canary"]["min_requests"]) == ("blue_green", 50)
        assert policy["auto_rollback"] is False
        assert rollout().policy["strategy"] == "canary"


class TestYaml:
    def text(self, signed_in, **changes) -> str:
        text = signed_in.get("/api/v1/deployments/rolling/export/").content.decode()
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    def test_check_says_what_would_change_and_changes_nothing(self, signed_in, rolling):
        text = self.text(signed_in) + "scaling:\n  max_replicas: 7\n"

        page = signed_in.post(f"{URL}yaml/", {"yaml": text, "do": "check"}).content.decode()

        assert "scaling.max_replicas: (default) -&gt; 7" in page
        assert Deployment.objects.get().scaling.max_replicas == 1

    def test_apply_changes_it(self, signed_in, rolling):
        text = self.text(signed_in) + "scaling:\n  max_replicas: 7\n"

        signed_in.post(f"{URL}yaml/", {"yaml": text, "do": "apply"})

        assert Deployment.objects.get().scaling.max_replicas == 7

    def test_a_typo_comes_back_with_its_line_and_the_text(self, signed_in, rolling):
        text = self.text(signed_in) + "scalling: {}\n"

        answer = signed_in.post(f"{URL}yaml/", {"yaml": text, "do": "apply"})

        assert answer.status_code == 422
        page = answer.content.decode()
        assert "did you mean `scaling`?" in page
        assert "scalling: {}" in page
