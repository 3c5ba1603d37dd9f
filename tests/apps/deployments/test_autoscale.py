"""How many replicas are wanted: the rule, its limits, and the traps that others fell into."""

import math
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.deployments.reconcile.autoscale import decide
from apps.deployments.reconcile.scaling import hearth
from apps.deployments.reconcile.scaling.simulate import Setup, changes, run
from apps.deployments.reconcile.scaling.values import (
    HearthMemory,
    Observations,
    Policy,
    State,
    Window,
)
from apps.deployments.states import ScalingProfile, ScalingRule
from tests.apps.deployments.scaling import START, Deployment, steady

ZERO = Policy(
    min_replicas=0,
    max_replicas=4,
    target_concurrency=4,
    scale_to_zero_after_seconds=120,
    hold_seconds=60,
)
RULES = list(ScalingRule)


class TestDemand:
    def test_constant_load_gets_what_it_needs_and_no_more(self):
        chat = Deployment()

        chat.run(900, **steady(16))

        assert chat.wanted[-1] == math.ceil(16 / (4 * 0.9))

    def test_load_that_doubles_is_followed_within_the_stable_window(self):
        chat = Deployment(ready=3)
        chat.run(400, **steady(8))

        chat.run(60, **steady(16))

        assert chat.wanted[-1] >= 5

    def test_a_long_start_orders_no_flood_while_the_queue_grows(self):
        chat = Deployment(start_seconds=120, policy=Policy(max_replicas=50, target_concurrency=4))
        chat.run(300, **steady(4))
        queued = 0

        for _ in range(60):
            queued += 2  # two a second are offered, one is served
            chat.tick(in_flight=4, admitted=2, queued=queued)

        assert max(chat.wanted) <= 8

    def test_a_backlog_that_starting_replicas_will_have_served_orders_nothing_more(self):
        demand = hearth.Demand(
            offered=(8.0,) * 30,
            held=(4,) * 30,
            was_queued=20,
            service_seconds=4.0,
            per_replica=4.0,
            rise_per_second=0.0,
            weights=hearth.PROFILES[ScalingProfile.BALANCED],
        )
        waiting = Observations(at=0, queued=20, ready=1, start_seconds=60)
        coming = msgspec.structs.replace(waiting, starting=(10.0, 10.0, 10.0))

        assert demand.terms(waiting)["backlog"] > 0
        assert demand.terms(coming)["backlog"] == 0

    def test_a_rise_that_fills_the_slots_is_ordered_for_before_the_minute_knows_it(self):
        chat = Deployment(
            start_seconds=120, policy=Policy(max_replicas=50, target_concurrency=4), ready=4
        )
        chat.run(60, **steady(4))

        for queued in (8, 16, 24, 32, 40):  # twice what the slots can take
            chat.tick(in_flight=16, admitted=8, queued=queued)

        assert chat.history[-1].terms["mean"] < 12
        assert chat.wanted[-1] >= 8

    def test_slots_full_of_a_backlog_that_drains_are_no_load(self):
        demand = hearth.Demand(
            offered=(8.0,) * 30, held=(40,) * 30, was_queued=60, service_seconds=4.0,
            per_replica=4.0, rise_per_second=0.0,
            weights=hearth.PROFILES[ScalingProfile.BALANCED],
        )  # fmt: skip
        draining = Observations(at=0, in_flight=40, queued=40, ready=10, start_seconds=60)

        terms = demand.terms(draining)

        assert (terms["mean"], terms["backlog"]) == (8.0, 0)

    def test_traffic_is_not_taken_for_bursts_because_little_of_it_was_seen(self):
        memory = HearthMemory()
        for number in range(20):
            seen = Observations(at=number * 2.0, admitted=60 + number % 3, in_flight=60)
            memory = hearth.need(Policy(), memory, seen, 2.0).memory

        assert hearth.dispersion(memory) < 1
        assert hearth.profile_of(Policy(), memory) == ScalingProfile.BALANCED

    def test_traffic_in_bursts_is_responsive_by_itself(self):
        smooth, bursty = HearthMemory(), HearthMemory()
        for number in range(600):
            seen = Observations(at=number * 2.0, admitted=3, in_flight=3)
            smooth = hearth.need(Policy(), smooth, seen, 2.0).memory
            burst = Observations(at=number * 2.0, admitted=90 * (number % 30 == 0), in_flight=3)
            bursty = hearth.need(Policy(), bursty, burst, 2.0).memory

        assert hearth.profile_of(Policy(), smooth) == ScalingProfile.BALANCED
        assert hearth.profile_of(Policy(), bursty) == ScalingProfile.RESPONSIVE
        frugal = Policy(profile=ScalingProfile.FRUGAL)
        assert hearth.profile_of(frugal, bursty) == ScalingProfile.FRUGAL

    def test_what_a_replica_holds_is_learned_when_its_engine_begins_to_queue(self):
        chat = Deployment(policy=Policy(max_replicas=10, target_concurrency=16), ready=2)

        for _ in range(150):
            chat.tick(**steady(16), obeys=False, running=16, waiting=4)

        assert chat.history[-1].terms["per_replica"] == pytest.approx(8, abs=1)

    def test_history_sets_a_floor(self):
        chat = Deployment()

        assert chat.run(10, seasonal=11.0).wanted == 3
        assert "came at this hour" in chat.history[-1].reason

    def test_late_first_tokens_add_one_replica_while_none_is_starting(self):
        chat = Deployment()
        chat.set(ttft_target_seconds=1.0)
        chat.run(10, **steady(2))

        first = chat.tick(**steady(2), ttft_p95_seconds=3.0)
        second = chat.tick(**steady(2), ttft_p95_seconds=3.0)

        assert first.wanted == 2
        assert second.wanted <= 2
        assert "TTFT p95 is 3.00 s" in first.reason


class TestHold:
    def test_goes_down_only_when_the_need_was_lower_for_the_whole_window(self):
        chat = Deployment()
        chat.run(400, **steady(16))
        top = chat.wanted[-1]

        chat.run(290, **steady(2))
        assert chat.wanted[-1] == top
        chat.run(120, **steady(2))

        assert chat.wanted[-1] == 1

    def test_after_a_restart_what_is_there_is_needed_for_one_window(self):
        chat = Deployment(ready=6)

        chat.run(290, **steady(1))
        assert set(chat.wanted) == {6}
        chat.run(60, **steady(1))

        assert chat.wanted[-1] == 1

    def test_a_restart_after_a_gap_keeps_what_was_learned_and_what_is_there(self):
        chat = Deployment()
        chat.run(600, **steady(16))
        learned = chat.state.memory.completed
        chat.at += 90

        decision = chat.tick(**steady(1))

        assert decision.wanted == chat.wanted[-2]
        assert chat.state.memory.completed > learned / 4

    @pytest.mark.parametrize("jump", [-3600.0, 3600.0])
    def test_a_clock_that_jumps_loses_no_replica(self, jump):
        chat = Deployment()
        chat.run(400, **steady(16))
        top = chat.wanted[-1]

        chat.at += jump
        chat.run(200, **steady(1))

        assert chat.wanted[-1] == top


class TestLimits:
    def test_the_maximum_is_named_when_more_are_needed(self):
        chat = Deployment(policy=Policy(max_replicas=2, target_concurrency=4))

        decision = chat.run(60, **steady(40))

        assert decision.wanted == 2
        assert "the maximum is 2" in decision.reason

    def test_the_gpu_budget_is_a_ceiling(self):
        chat = Deployment()
        chat.set(gpu_budget=5, gpus_per_replica=2)

        assert chat.run(60, **steady(40)).wanted == 2
        assert "the budget is 5 GPUs" in chat.history[-1].reason

    def test_a_schedule_sets_bounds_and_its_replicas_are_ready_when_it_begins(self):
        monday_nine = datetime(2026, 11, 2, 9, tzinfo=UTC).timestamp()
        chat = Deployment(start_seconds=120, at=monday_nine - 400)
        chat.set(schedule=(Window(cron="0 9 * * 1-5", duration_seconds=3600, min_replicas=3),))
        chat.run(600)

        ready_at = next(d for d in chat.history if d.wanted == 3).state.at

        assert monday_nine - 180 <= ready_at <= monday_nine - 100

    def test_a_schedule_ends(self):
        monday_ten = datetime(2026, 11, 2, 10, tzinfo=UTC).timestamp()
        chat = Deployment(at=monday_ten - 60, ready=3)
        chat.set(
            schedule=(Window(cron="0 9 * * *", duration_seconds=3600, min_replicas=3),),
            hold_seconds=30,
        )

        chat.run(600)

        assert chat.wanted[0] == 3
        assert chat.wanted[-1] == 1

    def test_a_ceiling_by_the_clock_wins_over_load(self):
        chat = Deployment()
        chat.set(schedule=(Window(cron="* * * * *", duration_seconds=3600, max_replicas=2),))

        assert chat.run(120, **steady(40)).wanted == 2

    def test_no_room_keeps_one_waiting_and_says_what_is_missing(self):
        chat = Deployment()
        chat.run(10, **steady(2))

        decision = chat.tick(
            in_flight=40, admitted=40, queued=30, unplaced=1, missing="alpha: no GPU is free"
        )

        assert decision.wanted == 2
        assert "1 have room: alpha: no GPU is free" in decision.reason

    def test_a_minimum_that_people_set_waits_for_room_whole(self):
        chat = Deployment(policy=Policy(min_replicas=4, max_replicas=8))

        assert chat.tick(unplaced=3, missing="no GPU").wanted == 4


class TestZero:
    def test_nobody_asks_and_nothing_is_wanted_after_the_time_and_not_before(self):
        chat = Deployment(policy=ZERO)
        chat.run(20, **steady(1))

        chat.run(116)
        assert chat.wanted[-1] == 1
        last = chat.run(10)

        assert last.wanted == 0
        assert last.at_zero

    def test_a_waiting_request_wants_one_at_once(self):
        chat = Deployment(policy=ZERO)
        chat.run(300)

        decision = chat.tick(queued=1)

        assert (decision.wanted, decision.changed) == (1, True)

    def test_a_ring_alone_is_enough(self):
        chat = Deployment(policy=ZERO)
        chat.run(300)

        assert chat.tick(rung=True).wanted == 1

    def test_stays_at_zero_while_nobody_asks(self):
        chat = Deployment(policy=ZERO)
        chat.run(300)

        assert set(chat.wanted[-60:]) == {0}


class TestTraps:
    """Faults of others, by their issue."""

    def test_zero_traffic_is_a_number(self):
        """dynamo #6985: metrics without traffic are NaN, and it holds for ever."""
        chat = Deployment(ready=5)

        chat.run(900)

        assert chat.wanted[-1] == 1

    def test_goes_down_while_a_replica_is_pending(self):
        """dynamo #14251, aibrix #2671: never down while something is starting."""
        chat = Deployment(ready=4)
        chat.run(10, **steady(2))

        for _ in range(400):
            chat.tick(**steady(2), starting=(30.0,))

        assert chat.wanted[-1] == 1

    def test_is_not_at_zero_before_the_first_start_has_ended(self):
        """kserve #1247."""
        chat = Deployment(policy=ZERO, ready=0, start_seconds=900, starting=[START + 900])

        chat.run(890)
        assert set(chat.wanted) == {1}
        chat.run(400)

        assert chat.wanted[-1] == 0

    def test_a_busy_replica_with_few_new_requests_is_not_idle(self):
        """dstack #2656: a one-minute window of requests a second stops busy replicas."""
        chat = Deployment(policy=ZERO)
        chat.tick(admitted=1, in_flight=1)

        chat.run(3600, in_flight=1)

        assert min(chat.wanted) == 1

    def test_people_and_the_autoscaler_write_different_numbers(self):
        """kthena #1019, dynamo #4420: two writers of one number fight."""
        chat = Deployment()
        chat.run(400, **steady(16))
        wanted = chat.wanted[-1]

        chat.set(max_replicas=20)
        chat.run(20, **steady(16))

        assert set(chat.wanted[-10:]) == {wanted}

    def test_replicas_that_are_starting_are_supply(self):
        chat = Deployment(start_seconds=300)

        chat.run(200, in_flight=4, admitted=4, queued=12)

        assert max(chat.wanted) <= 10
        assert changes(chat.wanted) == 0

    def test_one_that_never_comes_up_is_tried_beside_but_not_for_ever_more(self):
        chat = Deployment(ready=1)
        chat.run(300, **steady(6))
        stuck = chat.tick(**steady(6), ready=1, starting=(), stuck=1)
        more = chat.tick(**steady(6), ready=1, starting=(), stuck=2)

        assert stuck.wanted == stuck.terms["need"] + 1
        assert more.wanted == stuck.wanted
        assert "does not come up" in more.reason

    def test_missing_numbers_freeze_it(self):
        chat = Deployment()
        chat.run(400, **steady(16))
        top = chat.wanted[-1]

        last = chat.run(900, fresh=False, silent_seconds=900.0)

        assert last.wanted == top
        assert "no gateway has told its numbers for 900 s" in last.reason


class TestProperties:
    load = st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 40)), max_size=120
    )

    @settings(max_examples=60, deadline=None)
    @given(
        rule=st.sampled_from(RULES),
        low=st.integers(0, 4),
        extra=st.integers(0, 6),
        load=load,
        fresh=st.integers(0, 5),
    )
    def test_is_never_outside_its_bounds(self, rule, low, extra, load, fresh):
        policy = Policy(
            min_replicas=low, max_replicas=low + extra, rule=rule, scale_to_zero_after_seconds=20
        )
        chat = Deployment(policy=policy, ready=low)

        for number, (in_flight, admitted, queued) in enumerate(load):
            chat.tick(
                in_flight=in_flight,
                admitted=admitted,
                queued=queued,
                fresh=number % 6 != fresh,
            )

        assert all(low <= wanted <= low + extra for wanted in chat.wanted)

    @settings(max_examples=60, deadline=None)
    @given(load=load)
    def test_never_goes_below_what_was_needed_within_the_hold_window(self, load):
        chat = Deployment(policy=Policy(max_replicas=100, target_concurrency=4, hold_seconds=60))

        for in_flight, admitted, queued in load:
            chat.tick(in_flight=in_flight, admitted=admitted, queued=queued)

        for number, decision in enumerate(chat.history):
            window = chat.history[max(0, number - 29) : number + 1]
            assert decision.wanted >= min(100, max(d.terms["need"] for d in window))

    @settings(max_examples=25, deadline=None)
    @given(
        rule=st.sampled_from([ScalingRule.HEARTH, ScalingRule.KNATIVE_DELAY, ScalingRule.HPA]),
        concurrency=st.integers(1, 60),
        service=st.sampled_from([0.5, 4.0, 30.0]),
        first=st.integers(1, 20),
    )
    def test_comes_to_rest_on_constant_load(self, rule, concurrency, service, first):
        # Knative takes away half once a delay: from a first overshoot that must fit into the run.
        policy = Policy(max_replicas=40, target_concurrency=8, rule=rule, hold_seconds=120)
        requests = [
            (n * service / concurrency, 0.0, service)
            for n in range(int(1500 * concurrency / service))
        ]
        world = Setup(start_seconds=30, slots=8, first_replicas=first, keep_ticks=True)

        outcome = run(policy, requests, world, decide, until=1500)

        settled = [tick[4] for tick in outcome.ticks[-150:]]
        assert len(set(settled)) == 1
        assert settled[0] * 8 >= concurrency
        assert settled[0] <= math.ceil(concurrency / (8 * 0.6)) + 1

    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 1000), spread=st.integers(1, 4))
    def test_does_not_flap_on_noisy_load(self, seed, spread):
        chat = Deployment(policy=Policy(max_replicas=40, target_concurrency=8), ready=3)

        for number in range(900):
            noise = (number * 7919 + seed) % (2 * spread + 1) - spread
            chat.tick(in_flight=16 + noise, admitted=8 + noise // 2)

        assert changes(chat.wanted[150:]) <= 2

    @settings(max_examples=40, deadline=None)
    @given(rule=st.sampled_from(RULES), load=load)
    def test_a_state_that_went_through_json_decides_the_same(self, rule, load):
        policy = Policy(max_replicas=9, rule=rule)
        chat = Deployment(policy=policy)
        for in_flight, admitted, queued in load:
            stored = msgspec.json.decode(msgspec.json.encode(chat.state), type=State | None)
            assert stored == chat.state
            chat.tick(in_flight=in_flight, admitted=admitted, queued=queued)
