"""The worker's schedule."""

import pytest

from apps.telemetry import actions
from apps.telemetry.models import Tick
from controlplane.celery import app

pytestmark = pytest.mark.django_db


def test_everything_scheduled_is_a_task_and_expires_before_it_piles_up():
    app.loader.import_default_modules()

    for entry in app.conf.beat_schedule.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["expires"] <= entry["schedule"]


def test_tasks_run_twice_without_harm(redis):
    app.loader.import_default_modules()
    for entry in app.conf.beat_schedule.values():
        app.tasks[entry["task"]].apply(throw=True)
        app.tasks[entry["task"]].apply(kwargs={"of_a_later_version": 1}, throw=True)

    assert Tick.objects.filter(name=actions.FLUSH).count() in (1, 2)  # 2 across a bucket's edge
