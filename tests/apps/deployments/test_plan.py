"""The planner: from what is seen to the next steps."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.deployments.reconcile.plan import backoff_seconds, plan
from apps.deployments.reconcile.snapshot import SeenReplica, Snapshot
from apps.deployments.reconcile.steps import (
    CreateReplica,
    DrainReplica,
    ForgetFailures,
    KeepWaiting,
    MarkLost,
    PlaceReplica,
    RemoveDeployment,
    RetryReplica,
    ScheduleRetry,
    Step,
    StopReplica,
)
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.fleet.states import HostState
from tests.apps.deployments.snapshots import (
    GIB,
    HOST,
    NOW,
    OLD_REVISION,
    before,
    host,
    replica,
    snapshot,
)

P = ReplicaPhase


class TestCount:
    def test_creates_what_is_missing(self):
        assert plan(snapshot(wanted=2), NOW) == [CreateReplica(), CreateReplica()]

    def test_is_at_rest_when_all_wanted_replicas_serve(self):
        assert plan(snapshot(replica(), replica(), wanted=2), NOW) == []

    def test_counts_replicas_that_are_coming_as_supply(self):
        assert plan(snapshot(replica(P.STARTING), replica(P.FETCHING), wanted=2), NOW) == []

    def test_retires_what_does_not_serve_before_what_does(self):
        starting = replica(P.STARTING)

        steps = plan(snapshot(replica(), starting, wanted=1), NOW)

        assert steps == [StopReplica(starting.id, "fewer replicas are wanted")]

    def test_drains_the_youngest_of_equals_for_the_drain_time(self):
        young = replica(created_at=before(10))

        steps = plan(snapshot(replica(), young, wanted=1, drain_seconds=30), NOW)

        until = NOW + timedelta(seconds=30)
        assert steps == [DrainReplica(young.id, until, "fewer replicas are wanted")]

    def test_stops_everything_when_the_deployment_is_stopped(self):
        serving = replica()

        steps = plan(snapshot(serving, desired=DesiredDeployment.STOPPED), NOW)

        assert [type(step) for step in steps] == [DrainReplica]

    def test_removes_a_deleted_deployment_once_nothing_is_left(self):
        deleted = {"desired": DesiredDeployment.DELETED}

        assert plan(snapshot(**deleted), NOW) == [RemoveDeployment()]
        assert RemoveDeployment() not in plan(snapshot(replica(), **deleted), NOW)


class TestDraining:
    def leaving(self, **changes) -> SeenReplica:
        values = {
            "desired": DesiredReplica.DRAINED,
            "phase_at": before(5),
            "drain_until": NOW + timedelta(seconds=20),
        }
        return replica(P.DRAINING, **{**values, **changes})

    def test_waits_while_requests_are_in_flight(self):
        assert plan(snapshot(self.leaving(in_flight=3), wanted=0), NOW) == []

    def test_waits_while_no_gateway_has_told(self):
        assert plan(snapshot(self.leaving(in_flight=None), wanted=0), NOW) == []

    def test_waits_until_gateways_had_time_to_stop_routing(self):
        just_now = self.leaving(in_flight=0, phase_at=before(0.2))

        assert plan(snapshot(just_now, wanted=0), NOW) == []

    def test_stops_a_replica_that_is_idle(self):
        idle = self.leaving(in_flight=0)

        assert plan(snapshot(idle, wanted=0), NOW) == [
            StopReplica(idle.id, "it has finished its requests")
        ]

    def test_stops_a_busy_replica_when_its_time_is_over(self):
        late = self.leaving(in_flight=3, drain_until=before(1))

        assert plan(snapshot(late, wanted=0), NOW) == [
            StopReplica(late.id, "its drain time is over")
        ]


class TestRevisions:
    def old(self, phase: ReplicaPhase = P.READY, **changes) -> SeenReplica:
        return replica(phase, revision_id=OLD_REVISION, revision_number=1, **changes)

    def test_keeps_the_old_revision_until_the_new_one_is_ready(self):
        assert plan(snapshot(self.old(), replica(P.STARTING)), NOW) == []

    def test_drains_the_old_revision_when_the_new_one_serves(self):
        old = self.old()

        (step,) = plan(snapshot(old, replica()), NOW)

        assert isinstance(step, DrainReplica)
        assert step.replica_id == old.id
        assert step.why == "revision 2 takes over"

    def test_replaces_in_place_when_there_is_no_room_beside_it(self):
        old = self.old()
        new = replica(P.PENDING, host_id=None, host_state=None)
        full = host(free_memory_bytes=GIB)

        steps = plan(snapshot(old, new, hosts=(full,)), NOW)

        until = NOW + timedelta(seconds=30)
        assert DrainReplica(old.id, until, "its successor needs its room") in steps

    def test_makes_room_for_one_successor_at_a_time(self):
        leaving = self.old(P.DRAINING, desired=DesiredReplica.DRAINED, drain_until=NOW, in_flight=1)
        new = replica(P.PENDING, host_id=None, host_state=None)
        full = host(free_memory_bytes=GIB)

        steps = plan(snapshot(self.old(), leaving, new, hosts=(full,), wanted=2), NOW)

        assert not any(isinstance(step, DrainReplica) for step in steps)

    def test_empties_a_cordoned_host_only_once_successors_serve(self):
        leaving = replica(host_cordoned=True)

        assert plan(snapshot(leaving), NOW) == [CreateReplica()]
        (step,) = plan(snapshot(leaving, replica()), NOW)
        assert isinstance(step, DrainReplica)
        assert step.why == "its host is being emptied"


class TestFailures:
    @pytest.mark.parametrize(
        ("failures", "seconds"), [(1, 5), (2, 10), (4, 40), (7, 300), (1000, 300)]
    )
    def test_backs_off_exponentially_up_to_a_cap(self, failures, seconds):
        assert backoff_seconds(failures) == seconds

    def test_schedules_the_next_try_once(self):
        failed = replica(P.FAILED, failures=2)

        assert plan(snapshot(failed), NOW) == [
            ScheduleRetry(failed.id, NOW + timedelta(seconds=10))
        ]
        assert plan(snapshot(replace(failed, retry_at=NOW + timedelta(seconds=3))), NOW) == []

    def test_tries_again_when_it_is_time(self):
        failed = replica(P.FAILED, failures=2, retry_at=before(0))

        assert plan(snapshot(failed), NOW) == [RetryReplica(failed.id)]

    def test_forgives_after_five_minutes_of_serving(self):
        steady = replica(failures=2, phase_at=before(301))

        assert plan(snapshot(steady), NOW) == [ForgetFailures(steady.id)]


class TestLostHosts:
    def test_replaces_what_was_on_a_lost_host(self):
        gone = replica(host_state=HostState.LOST)

        assert plan(snapshot(gone), NOW) == [MarkLost(gone.id), CreateReplica()]

    def test_waits_while_the_host_is_only_unknown(self):
        assert plan(snapshot(replica(host_state=HostState.UNKNOWN)), NOW) == []

    def test_orders_the_lost_one_gone_once_its_successor_serves(self):
        gone = replica(P.LOST, host_state=HostState.LOST)

        assert plan(snapshot(gone, replica()), NOW) == [
            StopReplica(gone.id, "it was replaced elsewhere")
        ]


class TestPlacing:
    def test_places_all_that_wait_in_one_pass_the_oldest_first(self):
        first = replica(P.PENDING, host_id=None, host_state=None, created_at=before(20))
        second = replica(P.PENDING, host_id=None, host_state=None, created_at=before(10))

        steps = plan(snapshot(second, first, wanted=2), NOW)

        placed = [(step.replica_id, step.placed.host_id) for step in steps]
        assert placed == [(first.id, HOST), (second.id, HOST)]

    def test_tells_those_that_found_no_room_why_they_wait(self):
        first = replica(P.PENDING, host_id=None, host_state=None, created_at=before(20))
        second = replica(P.PENDING, host_id=None, host_state=None, created_at=before(10))
        room_for_one = host(free_memory_bytes=3 * GIB)

        placed, waits = plan(snapshot(second, first, wanted=2, hosts=(room_for_one,)), NOW)

        assert isinstance(placed, PlaceReplica)
        assert isinstance(waits, KeepWaiting)
        assert waits.replica_id == second.id

    @pytest.mark.parametrize("phase", [P.PENDING, P.FETCHING, P.STARTING, P.FAILED])
    def test_starts_elsewhere_what_was_placed_on_a_gpu_that_vanished(self, phase):
        stranded = replica(phase, missing_gpus=("GPU-7",))

        assert plan(snapshot(stranded), NOW) == [
            StopReplica(stranded.id, "GPU GPU-7 is gone from its host"),
            CreateReplica(),
        ]

    def test_leaves_alone_what_serves_whatever_the_inventory_says(self):
        assert plan(snapshot(replica(missing_gpus=("GPU-7",))), NOW) == []

    def test_says_why_a_replica_waits_and_says_it_once(self):
        waiting = replica(P.PENDING, host_id=None, host_state=None)
        full = host(free_memory_bytes=GIB)

        (step,) = plan(snapshot(waiting, hosts=(full,)), NOW)

        assert isinstance(step, KeepWaiting)
        assert step.not_placed.why == "no host has room: alpha needs 1.0 GiB more memory"
        told = replace(waiting, reason=step.not_placed.why)
        assert plan(snapshot(told, hosts=(full,)), NOW) == []


def carry_out(seen: Snapshot, steps: list[Step], now: datetime) -> Snapshot:
    """Apply `steps` as a faultless world would: orders are obeyed before the next pass."""
    replicas = {r.id: r for r in seen.replicas}
    for step in steps:
        match step:
            case CreateReplica():
                new = replica(P.PENDING, host_id=None, host_state=None, created_at=now, id=uuid4())
                replicas[new.id] = new
            case PlaceReplica(key, placed):
                replicas[key] = replace(
                    replicas[key],
                    host_id=placed.host_id,
                    host_state=HostState.READY,
                    phase=P.READY,
                    phase_at=now,
                )
            case DrainReplica(key, until, _):
                replicas[key] = replace(
                    replicas[key],
                    desired=DesiredReplica.DRAINED,
                    phase=P.DRAINING,
                    phase_at=now,
                    drain_until=until,
                    in_flight=0,
                )
            case StopReplica(key, _):
                del replicas[key]
            case ScheduleRetry(key, at):
                replicas[key] = replace(replicas[key], retry_at=at)
            case RetryReplica(key):
                replicas[key] = replace(replicas[key], phase=P.READY, phase_at=now, retry_at=None)
            case ForgetFailures(key):
                replicas[key] = replace(replicas[key], failures=0)
            case MarkLost(key):
                replicas[key] = replace(replicas[key], phase=P.LOST)
            case KeepWaiting(key, not_placed):
                replicas[key] = replace(replicas[key], reason=not_placed.why)
    return replace(seen, replicas=tuple(replicas.values()))


phases = st.sampled_from([P.FETCHING, P.STARTING, P.READY, P.FAILED])
replicas = st.builds(
    lambda phase, old, cordoned, lost: replica(
        phase,
        revision_id=OLD_REVISION if old else snapshot().revision.id,
        host_cordoned=cordoned,
        host_state=HostState.LOST if lost else HostState.READY,
    ),
    phases,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


class TestConvergence:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(replicas, max_size=6), st.integers(0, 4))
    def test_comes_to_rest_with_what_is_wanted(self, given_replicas, wanted):
        seen = snapshot(*given_replicas, wanted=wanted, hosts=(host(free_memory_bytes=99 * GIB),))
        now = NOW
        for _ in range(60):
            seen = carry_out(seen, plan(seen, now), now)
            now += timedelta(seconds=10)

        assert plan(seen, now) == []
        serving = [r for r in seen.replicas if r.host_state is HostState.READY]
        coming = {P.FETCHING, P.STARTING}
        assert sum(r.phase is P.READY or r.phase in coming for r in serving) >= wanted
        lasting = [r for r in serving if r.revision_id == seen.revision.id]
        assert len([r for r in lasting if not r.host_cordoned]) == wanted
