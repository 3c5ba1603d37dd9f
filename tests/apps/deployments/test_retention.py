"""What is forgotten of deployments, and what is not."""

from datetime import timedelta

import pytest

from apps.deployments import retention
from apps.deployments.models import Decision, Event, Replica
from apps.deployments.states import ReplicaPhase
from tests.apps.deployments.factories import NOW, make_deployment, make_host, make_replica

pytestmark = pytest.mark.django_db

LATER = NOW + retention.KEPT


@pytest.fixture
def history():
    """A moment at NOW: an event, a decision, a stopped replica, and one that serves."""
    deployment, host = make_deployment(), make_host()
    Event.objects.create(at=NOW, kind="deployment.created", message="made")
    Decision.objects.create(created_at=NOW, deployment=deployment, kind="placement", reason="fits")
    for phase in (ReplicaPhase.STOPPED, ReplicaPhase.READY):
        make_replica(deployment=deployment, host=host, phase=phase)


def left() -> tuple[int, int, list[str]]:
    phases = Replica.objects.order_by("phase").values_list("phase", flat=True)
    return Event.objects.count(), Decision.objects.count(), list(phases)


def test_what_a_bill_may_ask_for_is_kept(history):
    assert retention.forget(LATER) == 0
    assert left() == (1, 1, ["ready", "stopped"])


def test_what_is_older_goes_but_what_serves_stays(history):
    assert retention.forget(LATER + timedelta(seconds=1)) == 3
    assert left() == (0, 0, ["ready"])


def test_a_long_history_goes_piece_by_piece(history, monkeypatch):
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    for _ in range(2):
        Event.objects.create(at=NOW, kind="deployment.created", message="made")

    taken = [retention.forget(LATER + timedelta(seconds=1)) for _ in range(3)]

    assert taken == [4, 1, 0]
