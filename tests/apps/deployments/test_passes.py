"""A pass over many deployments: planned one on what the other leaves, written all at once."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.deployments import bookings
from apps.deployments.models import Booking, Decision, Deployment, Event, Replica
from apps.deployments.reconcile import loop, placing
from apps.deployments.reconcile.fleet import Fleet
from apps.deployments.states import ReplicaPhase
from apps.lib import live
from tests.apps.deployments.factories import GIB, NOW, make_deployment, make_host, make_replica

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def ordered(count: int, hosts: int) -> None:
    """`count` deployments with a replica each that waits, on hosts with room for three."""
    for number in range(hosts):
        make_host(name=f"host-{number}", memory_gib=7)
    for number in range(count):
        row = make_deployment(name=f"chat-{number}")
        make_replica(deployment=row, phase=ReplicaPhase.PENDING)


def one_pass() -> int:
    """Return the queries it took."""
    ids = list(Deployment.objects.values_list("pk", flat=True))
    with CaptureQueriesContext(connection) as queries:
        loop.bring_about(ids, NOW, Fleet())
    return len(queries)


def placements() -> int:
    return Decision.objects.filter(kind="placement").count()


def test_places_many_deployments_without_overbooking_a_host():
    ordered(12, hosts=4)

    one_pass()

    per_host = [Replica.objects.filter(host__name=f"host-{n}").count() for n in range(4)]
    assert per_host == [3, 3, 3, 3]
    assert placements() == Event.objects.filter(kind="replica.placed").count() == 12


def test_a_replica_that_is_made_is_placed_in_the_same_pass():
    make_host(memory_gib=16)
    make_deployment(wanted=2)

    one_pass()

    assert Replica.objects.exclude(host=None).count() == 2


def test_placing_more_deployments_takes_no_more_queries_for_each():
    ordered(2, hosts=4)
    few = one_pass()
    Booking.objects.all().delete()
    Deployment.objects.all().delete()
    for number in range(12):
        row = make_deployment(name=f"more-{number}", phase="starting")
        make_replica(deployment=row, phase=ReplicaPhase.PENDING)

    many = one_pass()

    # What is written a deployment is its phase, in one statement.
    assert many - few <= 2 * (12 - 2)


def test_what_another_controller_has_taken_meanwhile_is_left_for_the_next_pass(monkeypatch):
    ordered(2, hosts=1)
    rival = make_replica(deployment=make_deployment(name="rival"), phase=ReplicaPhase.PENDING)
    host = make_host(name="small", memory_gib=3)
    placed = placing.place

    def overtaken(todo, now):
        bookings.book(rival, host_id=host.pk, gpu_uuids=(), memory_bytes=2 * GIB)
        placed(todo, now)

    monkeypatch.setattr(loop.placing, "place", overtaken)
    one_pass()

    assert Replica.objects.filter(host=host).count() == 0
    assert placements() == Replica.objects.exclude(host=None).count() > 0


def test_a_replica_that_is_placed_already_is_not_placed_again():
    ordered(1, hosts=2)
    stale = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.placing, "place", lambda todo, _now: stale.extend(todo))
        one_pass()

    placing.place(stale, NOW)
    placing.place(stale, NOW)

    assert placements() == 1


def test_a_deployment_that_cannot_be_read_stops_no_other_and_says_why():
    make_host(memory_gib=16)
    broken = make_deployment(name="broken", placement={"tolerations": [{"no such": "field"}]})
    sound = make_deployment(name="sound")
    controller = loop.Controller()

    controller.run_once(NOW)

    broken.refresh_from_db()
    assert sound.replicas.exclude(host=None).count() == 1
    assert broken.replicas.count() == 0
    assert "cannot be read (TypeError" in broken.reason

    Deployment.objects.filter(pk=broken.pk).update(placement={})
    controller.run_once(NOW)

    broken.refresh_from_db()
    assert broken.replicas.count() == 1
    assert "cannot be read" not in broken.reason


def test_live_updates_of_a_pass_are_sent_once_each(monkeypatch):
    sent = []
    monkeypatch.setattr(live, "_send_all", lambda messages: sent.append(list(messages)))

    with live.together():
        for _ in range(3):
            live._send(live.FLEET, "deployment", {"deployment": "chat"})
        live._send(live.FLEET, "event", {"deployment": "chat"})

    assert [[kind for _, kind, _ in batch] for batch in sent] == [["deployment", "event"]]
