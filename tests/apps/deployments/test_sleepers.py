"""Sleepers through the rows: passes of the controller, and what an agent reports."""

from datetime import datetime, timedelta

import pytest

from agents.wire import DesiredPhase, Nap, ObservedPhase, Rung
from apps.deployments import bookings, observed, starts
from apps.deployments.desired import reply_for
from apps.deployments.models import Booking, Decision, Event, Replica, ScalingPolicy, Start
from apps.deployments.reconcile.loop import Controller
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet.models import Host
from tests.apps.deployments.factories import (
    GIB,
    NOW,
    make_deployment,
    make_host,
    make_replica,
    make_report,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

NAP = Nap(level=1, held_bytes=2 * GIB, residual_bytes=GIB // 4, seconds=0.4)


class World:
    """One host, one deployment with one sleeper wanted, and a clock."""

    def __init__(self, wanted: int = 1) -> None:
        self.now: datetime = NOW
        self.host = make_host()
        self.deployment = make_deployment(wanted=wanted)
        ScalingPolicy.objects.update(asleep_replicas=1)
        self.controller = Controller()

    def passes(self, seconds: float = 1.0) -> None:
        """Let time pass and the controller come to rest."""
        self.now += timedelta(seconds=seconds)
        Host.objects.update(last_seen_at=self.now)
        for _ in range(6):
            if not self.controller.run_once(self.now):
                return

    def scale(self, wanted: int) -> None:
        ScalingPolicy.objects.update(min_replicas=wanted, max_replicas=wanted)

    def serving(self) -> Replica:
        replica = make_replica(deployment=self.deployment, host=self.host)
        bookings.book(replica, host_id=self.host.pk, gpu_uuids=(), memory_bytes=2 * GIB)
        return replica

    def told(self, replica: Replica) -> DesiredPhase:
        orders = reply_for(self.host.pk, 1, self.now).replicas
        return next(order.desired for order in orders if order.replica_id == str(replica.pk))

    def report(self, replica: Replica, phase: ObservedPhase, **more) -> Replica:
        observed.record_reports(self.host, [make_report(replica, phase, **more)], self.now)
        replica.refresh_from_db()
        return replica


@pytest.fixture
def world() -> World:
    return World()


def put_to_sleep(world: World) -> Replica:
    """Return a replica that was hot, was drained, and sleeps."""
    world.scale(0)
    replica = world.serving()
    world.passes()
    world.passes(40)
    return world.report(replica, ObservedPhase.ASLEEP, nap=NAP)


class TestGoingToSleep:
    def test_is_ordered_of_the_agent_only_after_the_drain(self, world):
        world.scale(0)
        replica = world.serving()

        world.passes()
        replica.refresh_from_db()
        draining = replica.phase, replica.desired, world.told(replica)
        world.passes(40)

        assert draining == (ReplicaPhase.DRAINING, DesiredReplica.ASLEEP, DesiredPhase.RUNNING)
        assert world.told(replica) is DesiredPhase.ASLEEP

    def test_keeps_only_what_was_measured_booked(self, world):
        replica = put_to_sleep(world)

        booking = Booking.objects.get(replica=replica)
        assert replica.phase == ReplicaPhase.ASLEEP
        assert (booking.bytes, booking.asleep) == (NAP.residual_bytes, True)
        assert replica.nap["held_bytes"] == NAP.held_bytes

    def test_that_saves_nothing_ends_on_the_next_rung_and_says_why(self, world):
        world.scale(0)
        replica = world.serving()
        world.passes()
        world.passes(40)

        reason = "asleep it still held 2048 of 2048 MiB"
        world.report(replica, ObservedPhase.READY, code="cannot_sleep", reason=reason)
        world.passes()

        assert world.told(replica) is DesiredPhase.ABSENT
        assert world.deployment.revisions.get().sleep_fault == reason
        assert Replica.objects.filter(desired=DesiredReplica.ASLEEP).count() == 0

    def test_keeps_the_engine_startable_for_sleep_only_where_sleepers_are_wanted(self, world):
        replica = world.serving()

        wanted = reply_for(world.host.pk, 1, NOW).replicas[0].spec.can_sleep
        ScalingPolicy.objects.update(asleep_replicas=0)
        unwanted = reply_for(world.host.pk, 1, NOW).replicas[0].spec.can_sleep

        assert replica.pk
        assert (wanted, unwanted) == (True, False)


class TestWaking:
    def test_books_its_memory_orders_it_up_and_leaves_a_decision(self, world):
        replica = put_to_sleep(world)

        world.scale(1)
        world.passes()

        booking = Booking.objects.get(replica=replica)
        decision = Decision.objects.get(kind="ladder")
        assert world.told(replica) is DesiredPhase.RUNNING
        assert (booking.bytes, booking.asleep) == (2 * GIB, False)
        assert decision.inputs["replica"] == str(replica.pk)

    def test_makes_a_new_sleeper_once_it_serves(self, world):
        replica = put_to_sleep(world)
        world.scale(1)
        world.passes()
        assert Replica.objects.filter(desired=DesiredReplica.ASLEEP).count() == 0

        world.report(replica, ObservedPhase.STARTING)
        world.report(
            replica, ObservedPhase.READY, rung=Rung.ASLEEP, stage_seconds={"wake": 0.3},
            start_seconds=0.35,
        )  # fmt: skip
        world.passes()

        assert replica.phase == ReplicaPhase.READY
        assert Replica.objects.filter(desired=DesiredReplica.ASLEEP).count() == 1
        assert starts.start_seconds(world.deployment, Rung.ASLEEP) == 0.35

    def test_that_fails_recycles_the_replica_after_a_rest(self, world):
        replica = put_to_sleep(world)
        world.scale(1)
        world.passes()

        world.report(replica, ObservedPhase.STARTING)
        world.report(
            replica, ObservedPhase.FAILED, code="wake_failed", reason="/wake_up answered 500",
            rung=Rung.ASLEEP, stage_seconds={"wake": 1.0},
        )  # fmt: skip
        world.passes()
        replica.refresh_from_db()
        rests = replica.phase, replica.retry_at - world.now
        world.passes(6)
        replica.refresh_from_db()

        assert rests == (ReplicaPhase.FAILED, timedelta(seconds=5))
        assert (replica.phase, replica.generation) == (ReplicaPhase.PENDING, 2)
        assert Start.objects.get().failure == "wake_failed"
        kinds = set(Event.objects.values_list("kind", flat=True))
        assert {"replica.asleep", "replica.wakes", "replica.failed", "replica.backoff"} <= kinds


class TestKeepAlive:
    def test_ends_sleepers_whose_deployment_was_not_used_for_their_time(self, world):
        replica = put_to_sleep(world)

        world.passes(7 * 3600)
        kept = world.told(replica)
        world.passes(3600)

        assert kept is DesiredPhase.ASLEEP
        assert world.told(replica) is DesiredPhase.ABSENT
        assert Replica.objects.exclude(pk=replica.pk).count() == 0

    def test_evicts_a_sleeper_for_a_deployment_that_finds_no_room(self, world):
        replica = put_to_sleep(world)
        other = make_deployment(name="other")
        revision = other.revisions.get()
        revision.need = {"total_bytes": int(15.4 * GIB), "gpus": 0}
        revision.save()

        world.passes()

        assert world.told(replica) is DesiredPhase.ABSENT
        world.deployment.refresh_from_db()
        assert world.deployment.evicted_at == world.now
