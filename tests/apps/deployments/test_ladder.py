"""The ladder: which rung fills a slot, who sleeps, who makes room."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.wire import Rung
from apps.deployments.reconcile.plan import plan
from apps.deployments.reconcile.sleepers import (
    Held,
    Member,
    least_valuable_first,
    may_sleep,
    share_out,
)
from apps.deployments.reconcile.snapshot import SeenReplica, Snapshot
from apps.deployments.reconcile.steps import (
    CreateReplica,
    CreateSleeper,
    DrainReplica,
    EvictSleeper,
    KeepWaiting,
    LayDown,
    NoteUse,
    PlaceReplica,
    RestReplica,
    StopReplica,
    WakeReplica,
)
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
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


def sleeper(phase: ReplicaPhase = P.ASLEEP, **changes) -> SeenReplica:
    values = {"desired": DesiredReplica.ASLEEP, "can_wake": phase is P.ASLEEP}
    return replica(phase, **{**values, **changes})


def laddered(*replicas: SeenReplica, wanted: int = 1, asleep: int = 1, **changes) -> Snapshot:
    values = {"asleep_wanted": asleep, "keeps_sleepers": True, "used_at": NOW}
    return snapshot(*replicas, wanted=wanted, **{**values, **changes})


class TestScaleUp:
    def test_wakes_a_sleeper_instead_of_a_new_start(self):
        asleep = sleeper()

        steps = plan(laddered(asleep, wanted=1), NOW)

        assert [type(step) for step in steps] == [WakeReplica]
        assert steps[0].replica_id == asleep.id
        assert steps[0].seconds == 5.0

    def test_takes_a_new_start_where_waking_was_measured_to_be_slower(self):
        times = {Rung.ASLEEP: 30.0, Rung.CACHED: 10.0}

        steps = plan(laddered(sleeper(), rung_seconds=times), NOW)

        assert CreateReplica() in steps

    def test_tries_a_wake_up_that_was_never_measured_of_a_model_that_starts_quickly(self):
        steps = plan(laddered(sleeper(), rung_seconds={Rung.CACHED: 2.0}), NOW)

        assert [type(step) for step in steps] == [WakeReplica]
        assert steps[0].seconds == 0.4

    def test_takes_the_next_rung_when_the_room_of_the_sleeper_is_taken(self):
        steps = plan(laddered(sleeper(can_wake=False)), NOW)

        assert CreateReplica() in steps

    def test_calls_back_what_had_not_lain_down_before_it_wakes_another(self):
        draining = sleeper(P.DRAINING, drain_until=NOW + timedelta(seconds=9), in_flight=1)

        steps = plan(laddered(sleeper(), draining, asleep=2), NOW)

        wakes = [step for step in steps if isinstance(step, WakeReplica)]
        assert [(step.replica_id, step.seconds) for step in wakes] == [(draining.id, 0.0)]

    def test_never_calls_back_what_the_agent_is_putting_to_sleep(self):
        going = sleeper(P.DRAINING, drain_until=None)

        assert CreateReplica() in plan(laddered(going), NOW)

    def test_starts_anew_what_sleepers_do_not_cover(self):
        steps = plan(laddered(sleeper(), wanted=3), NOW)

        assert sum(isinstance(step, WakeReplica) for step in steps) == 1
        assert steps.count(CreateReplica()) == 2

    def test_never_wakes_a_sleeper_of_an_older_revision(self):
        old = sleeper(revision_id=OLD_REVISION, revision_number=1)

        steps = plan(laddered(old), NOW)

        assert CreateReplica() in steps
        assert StopReplica(old.id, "revision 2 takes over") in steps


class TestScaleDown:
    def test_drains_towards_sleep_while_sleepers_are_wanted(self):
        young = replica(created_at=before(10))

        steps = plan(laddered(replica(), young, wanted=1), NOW)

        assert steps == [
            RestReplica(young.id, NOW + timedelta(seconds=30), "fewer replicas are wanted")
        ]

    def test_drains_towards_the_end_once_enough_sleep(self):
        steps = plan(laddered(replica(), replica(), sleeper(), wanted=1), NOW)

        assert [type(step) for step in steps] == [DrainReplica]

    def test_uses_the_next_rung_where_the_engine_cannot_sleep(self):
        fault = "asleep it still held all: frees nothing"

        steps = plan(laddered(replica(), replica(), wanted=1, sleep_fault=fault), NOW)

        assert [type(step) for step in steps] == [DrainReplica]

    @pytest.mark.parametrize("in_flight", [0, 3], ids=["idle", "its drain time is over"])
    def test_lays_down_what_is_drained(self, in_flight):
        until = NOW if in_flight else NOW + timedelta(seconds=9)
        drained = sleeper(P.DRAINING, drain_until=until, in_flight=in_flight)

        assert plan(laddered(replica(), drained), NOW) == [LayDown(drained.id)]

    def test_lets_requests_end_before_sleep(self):
        busy = sleeper(P.DRAINING, drain_until=NOW + timedelta(seconds=9), in_flight=2)

        assert plan(laddered(replica(), busy), NOW) == []


class TestSleepers:
    def test_are_made_once_all_that_is_wanted_hot_serves(self):
        assert plan(laddered(replica(P.STARTING), asleep=2), NOW) == []
        assert plan(laddered(replica(), asleep=2), NOW) == [CreateSleeper(), CreateSleeper()]

    def test_beyond_the_wanted_number_go(self):
        old, young = sleeper(created_at=before(90)), sleeper(created_at=before(10))

        steps = plan(laddered(replica(), old, young), NOW)

        assert steps == [StopReplica(young.id, "1 sleepers are wanted")]

    def test_that_serve_on_because_nothing_came_free_go(self):
        awake = sleeper(P.READY, code="cannot_sleep", reason="frees nothing")

        steps = plan(laddered(replica(), awake, sleep_fault="frees nothing"), NOW)

        assert steps == [
            StopReplica(awake.id, "it cannot sleep, the next rung is used: frees nothing")
        ]

    def test_go_with_a_stopped_deployment(self):
        asleep = sleeper()

        steps = plan(laddered(asleep, desired=DesiredDeployment.STOPPED), NOW)

        assert steps == [StopReplica(asleep.id, "nothing of it is wanted")]

    def test_are_placed_after_what_is_to_serve(self):
        hot = replica(P.PENDING, host_id=None, host_state=None, created_at=before(1))
        rest = sleeper(P.PENDING, host_id=None, host_state=None, created_at=before(9))

        steps = plan(laddered(hot, rest), NOW)

        placed = [step.replica_id for step in steps if isinstance(step, PlaceReplica)]
        assert placed == [hot.id, rest.id]

    def test_note_that_their_deployment_is_used(self):
        steps = plan(laddered(replica(), sleeper(), used_at=before(301)), NOW)

        assert steps == [NoteUse()]


class TestMakingRoom:
    def held(self, name: str, gib: float, idle: float = 100, where: UUID = HOST) -> Held:
        return Held(
            replica_id=uuid4(), deployment=name, host_id=where, gpu_uuids=(),
            residual_bytes=int(gib * GIB), idle_seconds=idle, saved_seconds=60,
        )  # fmt: skip

    def waiting(self, *held: Held, free_gib: float) -> Snapshot:
        full = host(free_memory_bytes=int(free_gib * GIB))
        alone = replica(P.PENDING, host_id=None, host_state=None)
        return snapshot(alone, hosts=(full,), sleepers=held)

    def test_takes_the_least_valuable_sleepers_and_no_more_than_needed(self):
        small, large, fresh = self.held("a", 0.5), self.held("b", 2), self.held("c", 2, idle=70)

        steps = plan(self.waiting(small, large, fresh, free_gib=0.5), NOW)

        evicted = [step.replica_id for step in steps if isinstance(step, EvictSleeper)]
        assert evicted == [large.replica_id]

    def test_takes_none_where_that_would_not_help(self):
        steps = plan(self.waiting(self.held("a", 0.5), free_gib=0.5), NOW)

        assert [type(step) for step in steps] == [KeepWaiting]

    def test_is_not_done_for_one_that_is_only_to_sleep(self):
        full = host(free_memory_bytes=0)
        rest = sleeper(P.PENDING, host_id=None, host_state=None)

        steps = plan(laddered(replica(), rest, hosts=(full,), sleepers=(self.held("a", 9),)), NOW)

        assert [type(step) for step in steps] == [KeepWaiting]


class TestKeepAlive:
    @pytest.mark.parametrize(
        ("idle", "ttl", "evicted", "kept"),
        [
            pytest.param(100, 3600, None, 2, id="in use lately"),
            pytest.param(3600, 3600, None, 0, id="its time is over"),
            pytest.param(10**6, 0, None, 2, id="no time to live"),
            pytest.param(100, 3600, 60, 0, id="one just made room"),
            pytest.param(100, 3600, 601, 2, id="that was a while ago"),
        ],
    )
    def test_keeps_sleepers_for_their_time(self, idle, ttl, evicted, kept):
        found = may_sleep(
            wanted=2, used_at=before(idle), evicted_at=evicted and before(evicted),
            ttl_seconds=ttl, now=NOW,
        )  # fmt: skip

        assert found == kept

    def test_shares_slots_among_those_who_need_one_most_valuable_first(self):
        def member(number: int, idle: float = 100, **changes) -> Member:
            values = {
                "deployment_id": UUID(int=number), "used_at": before(idle), "saved_seconds": 60,
                "residual_bytes": GIB, "asleep_wanted": 0, "hot": False,
            }  # fmt: skip
            return Member(**{**values, **changes})

        group = [
            member(1, idle=5000), member(2), member(3, idle=1000), member(4, hot=True),
            member(5, asleep_wanted=1), member(6, residual_bytes=20 * GIB),
        ]  # fmt: skip

        assert share_out(2, group, NOW) == {UUID(int=2): 1, UUID(int=3): 1}

    def test_ranks_by_seconds_saved_a_byte_and_time_since_use(self):
        values = {"host_id": HOST, "gpu_uuids": (), "deployment": "a", "saved_seconds": 60}
        stale = Held(replica_id=uuid4(), residual_bytes=GIB, idle_seconds=9000, **values)
        large = Held(replica_id=uuid4(), residual_bytes=5 * GIB, idle_seconds=900, **values)
        good = Held(replica_id=uuid4(), residual_bytes=GIB, idle_seconds=900, **values)

        assert least_valuable_first([good, large, stale]) == [stale, large, good]


def carried_out(seen: Snapshot, steps: list) -> Snapshot:
    """Return what would be seen once every step, and the agents, are done."""
    replicas = {r.id: r for r in seen.replicas}
    for step in steps:
        match step:
            case CreateReplica():
                new = replica(P.READY)
                replicas[new.id] = new
            case CreateSleeper():
                new = sleeper()
                replicas[new.id] = new
            case StopReplica(replica_id=key):
                del replicas[key]
            case DrainReplica(replica_id=key):
                replicas[key] = replace(
                    replicas[key], desired=DesiredReplica.DRAINED, phase=P.DRAINING,
                    drain_until=NOW,
                )  # fmt: skip
            case RestReplica(replica_id=key):
                replicas[key] = replace(
                    replicas[key], desired=DesiredReplica.ASLEEP, phase=P.DRAINING,
                    drain_until=NOW,
                )  # fmt: skip
            case LayDown(replica_id=key):
                replicas[key] = replace(
                    replicas[key], phase=P.ASLEEP, drain_until=None, can_wake=True
                )
            case WakeReplica(replica_id=key):
                replicas[key] = replace(
                    replicas[key], desired=DesiredReplica.RUNNING, phase=P.READY, drain_until=None
                )
    return replace(seen, replicas=tuple(replicas.values()), used_at=NOW)


made = st.builds(
    lambda phase, asleep: sleeper(phase) if asleep else replica(phase),
    st.sampled_from([P.READY, P.STARTING, P.ASLEEP]),
    st.booleans(),
).filter(lambda r: not (r.phase is P.ASLEEP and r.desired is DesiredReplica.RUNNING))


class TestConvergence:
    @settings(max_examples=120, deadline=None)
    @given(st.lists(made, max_size=6), st.integers(0, 4), st.integers(0, 3))
    def test_comes_to_rest_and_never_wakes_and_sleeps_in_a_loop(self, given_, wanted, asleep):
        seen = laddered(*given_, wanted=wanted, asleep=asleep)
        moved: list[tuple[str, UUID]] = []

        for _ in range(12):
            steps = plan(seen, NOW)
            moved += [("wake", s.replica_id) for s in steps if isinstance(s, WakeReplica)]
            moved += [("rest", s.replica_id) for s in steps if isinstance(s, RestReplica)]
            if not steps:
                break
            seen = carried_out(seen, steps)
            ready = tuple(
                replace(r, phase=P.READY) if r.phase is P.STARTING else r for r in seen.replicas
            )
            seen = replace(seen, replicas=ready)

        assert plan(seen, NOW) == []
        assert len(moved) == len(set(moved))
        assert not {key for verb, key in moved if verb == "wake"} & {
            key for verb, key in moved if verb == "rest"
        }
        hot = [r for r in seen.replicas if r.desired is DesiredReplica.RUNNING]
        assert len(hot) == wanted
