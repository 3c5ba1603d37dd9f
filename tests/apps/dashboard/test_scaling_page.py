"""The tab of a deployment's scaling: what it shows, saves, refuses and tries."""

from datetime import timedelta
from pathlib import Path

import pytest

from apps.deployments.models import Decision, ScalerState, ScalingPolicy, ScalingRecord
from apps.lib import clock
from tests.apps.dashboard import factories
from tests.apps.dashboard.test_orders import text_of

URL = "/deployments/smol/scaling/"
FORM = {
    "min_replicas": "1",
    "max_replicas": "4",
    "target_concurrency": "8",
    "profile": "balanced",
    "rule": "hearth",
    "hold_seconds": "300",
    "scale_to_zero_after_seconds": "600",
    "window-0-cron": "",
}


@pytest.fixture
def smol(db):
    made = factories.deployment("smol", phase="ready")
    factories.replica(made, factories.host())
    return made


@pytest.fixture
def scaled(smol):
    """An elastic deployment with an hour of records and a decision."""
    ScalingPolicy.objects.filter(pk=smol.pk).update(
        max_replicas=4,
        min_replicas=0,
        scale_to_zero_after_seconds=20,
        schedule=[
            {
                "cron": "0 8 * * 1-5",
                "timezone": "UTC",
                "duration_seconds": 36_000,
                "min_replicas": 2,
                "max_replicas": None,
            }
        ],
    )
    now = clock.now()
    for minute in range(50, 0, -1):
        start = now - timedelta(minutes=minute)
        busy = 20 + (minute * 7) % 23 if 15 < minute < 40 else 3
        ticks = [
            [
                start.timestamp() + 2 * n,
                3 if busy > 3 else 1,
                {
                    "at": 0,
                    "in_flight": busy + n % 5,
                    "queued": max(0, busy - 30),
                    "ready": 1 + (minute < 38),
                },
            ]
            for n in range(30)
        ]
        ScalingRecord.objects.create(
            deployment=smol, start_at=start, policy={}, state={}, ticks=ticks
        )
    Decision.objects.create(
        deployment=smol,
        created_at=now - timedelta(minutes=39),
        kind="scaling",
        reason="1 → 3 replicas: a peak of 31.0 requests at once, at 8 each",
        inputs={"was": 1, "wanted": 3},
    )
    ScalerState.objects.create(
        deployment=smol,
        wanted_replicas=3,
        reason="3 were needed within the last 300 s",
        start_seconds=42.0,
        updated_at=now,
    )
    return smol


class TestShow:
    def test_tells_load_decisions_and_the_policy_in_words(self, signed_in, scaled):
        text = text_of(signed_in.get(URL))

        assert "1 → 3 replicas: a peak of 31.0 requests at once" in text
        assert "3 were needed within the last 300 s" in text
        assert "20 s is shorter than a start, which takes 42 s here" in text

    def test_a_fixed_number_says_how_to_let_load_decide(self, signed_in, smol):
        assert "Set a maximum above the minimum" in text_of(signed_in.get(URL))

    def test_a_viewer_sees_it_and_may_not_save(self, viewer, smol):
        assert viewer.get(URL).status_code == 200
        assert viewer.post(URL, FORM).status_code == 403


class TestSave:
    def test_keeps_every_field_and_the_schedule(self, signed_in, smol):
        window = {
            "window-0-cron": "0 8 * * 1-5",
            "window-0-hours": "10",
            "window-0-min_replicas": "2",
        }

        answer = signed_in.post(URL, FORM | window | {"gpu_budget": "3", "profile": "frugal"})

        policy = ScalingPolicy.objects.get()
        assert answer.status_code == 303
        assert (policy.max_replicas, policy.gpu_budget, policy.profile) == (4, 3, "frugal")
        assert policy.schedule[0]["duration_seconds"] == 36_000

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"min_replicas": "5"}, "5 is more than max_replicas (4)"),
            ({"target_concurrency": "0"}, "greater than or equal to 1"),
            ({"window-0-cron": "0 25 * * *", "window-0-hours": "1"}, "is no hour"),
            ({"window-0-cron": "0 8 * * *"}, "say for how long"),
        ],
    )
    def test_what_cannot_be_is_said_at_its_place(self, signed_in, smol, change, said):
        answer = signed_in.post(URL, FORM | change)

        assert answer.status_code == 422
        assert said in text_of(answer)
        assert ScalingPolicy.objects.get().max_replicas == 1


class TestTry:
    def test_without_traffic_on_record_it_says_so(self, signed_in, smol):
        answer = signed_in.post(f"{URL}what-if/", FORM)

        assert "no requests on record" in text_of(answer)


@pytest.mark.browser
class TestLook:
    def test_the_whole_tab_in_both_themes_wide_and_phone(self, visitor, scaled, tmp_path):
        for theme in ("light", "dark"):
            for width in (1440, 390):
                page = visitor.open(URL, width=width, theme=theme)
                page.screenshot(path=str(tmp_path / f"{theme}-{width}.png"), full_page=True)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width
                assert page.locator(".step-plot").count() == 2
        assert len(list(Path(tmp_path).iterdir())) == 4
