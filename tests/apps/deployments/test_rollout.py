"""Rollouts in the planner: which replicas come and go, and when it moves on or back."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.deployments.reconcile.plan import plan
from apps.deployments.reconcile.snapshot import SeenReplica, SeenRollout, Snapshot
from apps.deployments.reconcile.steps import (
    AdvanceRollout,
    CreateReplica,
    DrainReplica,
    FinishRollout,
    NoteProgress,
    NoteVerdict,
    PauseRollout,
    RollBack,
    StopReplica,
)
from apps.deployments.rollout_policy import BadPolicy, RolloutPolicy, parse, to_json
from apps.deployments.states import ReplicaPhase, RolloutStage, RolloutStrategy
from apps.deployments.verdict import Tally
from tests.apps.deployments.snapshots import (
    GIB,
    NOW,
    OLD_REVISION,
    before,
    host,
    replica,
    revision,
    snapshot,
)
from tests.apps.deployments.test_plan import carry_out

P = ReplicaPhase
S = RolloutStage


def old(phase: ReplicaPhase = P.READY, **changes) -> SeenReplica:
    return replica(phase, revision_id=OLD_REVISION, revision_number=1, **changes)


def rolling(*replicas: SeenReplica, wanted: int = 2, **changes) -> Snapshot:
    """A rollout from revision 1 to 2 under way; `policy` holds the policy's members."""
    policy = parse(changes.pop("policy", {}))
    hosts = changes.pop("hosts", (host(),))
    ready = sum(r.phase is P.READY and r.revision_number == 2 for r in replicas)
    values = {
        "id": UUID(int=7),
        "live": revision(id=OLD_REVISION, number=1),
        "policy": policy,
        "stage": S.STARTING,
        "stage_at": before(10),
        "progressed_at": before(10),
        "most_ready": ready,
    }
    rollout = SeenRollout(**{**values, **changes})
    return snapshot(*replicas, wanted=wanted, rollout=rollout, hosts=hosts)


def kinds(steps) -> list[type]:
    return [type(step) for step in steps]


def slow(count: int, times: int = 1) -> Tally:
    return Tally(requests=count, ttft={10 * times: count}, itl={10 * times: count})


class TestRolling:
    def test_adds_no_more_than_the_surge(self):
        assert plan(rolling(old(), old()), NOW) == [CreateReplica()]
        assert plan(rolling(old(), old(), policy={"max_surge": 2}), NOW) == [CreateReplica()] * 2

    def test_keeps_the_old_ones_until_the_new_one_serves(self):
        assert plan(rolling(old(), old(), replica(P.STARTING)), NOW) == []

    def test_drains_one_for_each_that_serves(self):
        steps = plan(rolling(old(), old(), replica()), NOW)

        assert kinds(steps) == [DrainReplica, CreateReplica]
        assert steps[0].why == "revision 2 takes over"

    def test_goes_below_the_number_where_that_is_allowed(self):
        steps = plan(rolling(old(), old(), policy={"max_surge": 0, "max_unavailable": 1}), NOW)

        assert kinds(steps) == [DrainReplica, CreateReplica]

    def test_what_is_old_and_broken_leaves_first(self):
        broken = old(P.FAILED, retry_at=NOW + timedelta(seconds=9))

        steps = plan(rolling(old(), broken), NOW)

        assert StopReplica(broken.id, "revision 2 takes over") in steps

    def test_is_over_when_only_the_new_serve(self):
        assert plan(rolling(replica(), replica()), NOW) == [FinishRollout()]

    def test_notes_each_step_forward(self):
        assert NoteProgress(1) in plan(rolling(old(), replica(), most_ready=0), NOW)

    def test_a_paused_one_stands_still(self):
        assert plan(rolling(old(), replica(), paused=True), NOW) == []


class TestRecreate:
    def test_lets_all_go_before_anything_comes(self):
        policy = {"strategy": "recreate"}
        leaving = old(P.DRAINING, desired="drained", drain_until=NOW, in_flight=1)

        assert kinds(plan(rolling(old(), old(), policy=policy), NOW)) == [DrainReplica] * 2
        assert CreateReplica() not in plan(rolling(leaving, policy=policy), NOW)
        assert plan(rolling(policy=policy), NOW) == [CreateReplica()] * 2


class TestCanary:
    def canary(self, *replicas: SeenReplica, **changes) -> Snapshot:
        policy = {"strategy": "canary", **changes.pop("policy", {})}
        return rolling(*replicas, policy=policy, **changes)

    def test_adds_its_share_of_replicas_beside_the_live_ones(self):
        lives = [old() for _ in range(20)]

        steps = plan(self.canary(*lives, wanted=20), NOW)

        assert steps == [CreateReplica(snapshot().revision.id)] * 2

    def test_replaces_live_replicas_too_while_it_lasts(self):
        assert CreateReplica(OLD_REVISION) in plan(self.canary(old(), replica()), NOW)

    def test_serves_once_it_is_ready(self):
        (step,) = plan(self.canary(old(), old(), replica()), NOW)

        assert isinstance(step, AdvanceRollout)
        assert (step.stage, step.why) == (S.CANARY, "10% of the requests go to it")

    def test_gets_copies_first_when_told_to(self):
        shadowed = {"shadow_ratio": 0.5, "shadow_seconds": 30}
        seen = self.canary(old(), old(), replica(), policy=shadowed)

        assert plan(seen, NOW)[0].stage is S.SHADOWING
        copying = replace(seen, rollout=replace(seen.rollout, stage=S.SHADOWING))
        assert plan(copying, NOW) == []
        assert plan(copying, NOW + timedelta(seconds=21))[0].stage is S.CANARY

    def judged(self, live: Tally, candidate: Tally, **changes):
        seen = self.canary(
            old(), old(), replica(), stage=S.CANARY,
            live_evidence=live, candidate_evidence=candidate, **changes,
        )  # fmt: skip
        return plan(seen, NOW)

    def test_a_slower_one_is_given_up_and_drained_at_once(self):
        drain, back = self.judged(slow(450), slow(50, times=2))

        assert isinstance(drain, DrainReplica)
        assert drain.why == "back to revision 1"
        assert isinstance(back, RollBack)
        assert "time to first token" in back.why
        assert back.verdict.measures[1].candidate_samples == 50

    def test_asks_a_person_where_it_may_not_go_back(self):
        (step,) = self.judged(slow(450), slow(50, times=2), policy={"auto_rollback": False})

        assert isinstance(step, PauseRollout)

    def test_looks_again_before_it_passes(self):
        (step,) = self.judged(slow(450), slow(50))

        assert isinstance(step, NoteVerdict)
        assert self.judged(slow(450), slow(50), looks=1) == []

    def test_an_equal_one_is_promoted_at_the_last_look(self):
        (step,) = self.judged(slow(1800), slow(200), looks=2)

        assert isinstance(step, AdvanceRollout)
        assert step.stage is S.PROMOTING

    def test_waits_for_a_person_when_told_to(self):
        by_hand = {"canary": {"auto_promote": False}}

        (step,) = self.judged(slow(1800), slow(200), policy=by_hand)

        assert isinstance(step, PauseRollout)
        assert "promote it by hand" in step.why

    def test_never_passes_for_want_of_traffic(self):
        (step,) = self.judged(slow(30), slow(3), stage_at=before(3601))

        assert isinstance(step, PauseRollout)
        assert "only 3 of 200 requests" in step.why

    def test_a_promoted_one_rolls(self):
        seen = self.canary(old(), old(), replica(), stage=S.PROMOTING)

        assert kinds(plan(seen, NOW)) == [DrainReplica, CreateReplica]


class TestBlueGreen:
    def flip(self, *replicas: SeenReplica, **changes) -> Snapshot:
        return rolling(*replicas, policy={"strategy": "blue_green"}, **changes)

    def test_brings_all_up_beside_the_old(self):
        assert len(plan(self.flip(old(), old()), NOW)) == 2

    def test_flips_when_all_are_ready(self):
        assert plan(self.flip(old(), old(), replica(), replica(P.STARTING)), NOW) == []
        (step,) = plan(self.flip(old(), old(), replica(), replica()), NOW)
        assert step.stage is S.FLIPPED

    def test_keeps_the_old_a_while_then_drains_them_and_is_over(self):
        seen = self.flip(old(), old(), replica(), replica(), stage=S.FLIPPED)

        assert plan(seen, NOW) == []
        later = NOW + timedelta(seconds=60)
        assert kinds(plan(seen, later)) == [DrainReplica] * 2
        done = self.flip(replica(), replica(), stage=S.FLIPPED)
        assert plan(done, later) == [FinishRollout()]


class TestWayBack:
    @pytest.mark.parametrize("strategy", list(RolloutStrategy))
    def test_a_candidate_that_keeps_failing_is_given_up(self, strategy):
        broken = replica(P.FAILED, failures=3, retry_at=NOW, reason="out of memory")

        steps = plan(rolling(old(), old(), broken, policy={"strategy": strategy}), NOW)

        assert StopReplica(broken.id, "back to revision 1") in steps
        assert steps[-1] == RollBack("a replica failed 3 times in a row: out of memory")

    def test_a_candidate_that_does_not_get_ready_in_time_is_given_up(self):
        late = rolling(old(), old(), replica(P.STARTING), progressed_at=before(1800))

        assert plan(late, NOW)[-1] == RollBack("no replica got ready for 1800 s")

    def test_there_is_none_to_what_never_served(self):
        broken = replica(P.FAILED, failures=3, retry_at=before(-9), reason="out of memory")
        lost = rolling(old(P.FAILED), broken, live_served=False)

        assert RollBack not in kinds(plan(lost, NOW))

    def test_keeps_candidates_while_too_few_of_the_old_serve(self):
        serving, broken = replica(), replica(P.FAILED, failures=3, retry_at=NOW)

        steps = plan(rolling(old(), serving, broken), NOW)

        assert kinds(steps) == [StopReplica, RollBack]


class TestPlacing:
    def test_places_each_replica_as_its_own_revision_needs(self):
        waiting = old(P.PENDING, host_id=None, host_state=None)
        seen = rolling(old(), waiting, replica(), policy={"strategy": "canary"}, stage=S.CANARY)
        small = replace(seen.rollout.live, memory_bytes=GIB)

        (step,) = plan(replace(seen, rollout=replace(seen.rollout, live=small)), NOW)

        assert step.placed.memory_bytes == GIB

    def test_a_canary_never_takes_the_room_of_what_serves(self):
        waiting = replica(P.PENDING, host_id=None, host_state=None)
        full = (host(free_memory_bytes=GIB),)

        steps = plan(rolling(old(), old(), waiting, policy={"strategy": "canary"}, hosts=full), NOW)

        assert DrainReplica not in kinds(steps)


strategies = st.sampled_from(list(RolloutStrategy))
phases = st.sampled_from([P.FETCHING, P.STARTING, P.READY])
members = st.builds(
    lambda phase, is_old: old(phase) if is_old else replica(phase), phases, st.booleans()
)


class TestConvergence:
    @settings(max_examples=120, deadline=None)
    @given(strategies, st.lists(members, max_size=6), st.integers(0, 4), st.integers(0, 2))
    def test_every_strategy_comes_to_rest_without_falling_below_the_number(
        self, strategy, given_replicas, wanted, surge
    ):
        policy = {"strategy": strategy, "max_surge": surge, "max_unavailable": int(surge == 0)}
        room = (host(free_memory_bytes=99 * GIB),)
        seen = rolling(*given_replicas, wanted=wanted, policy=policy, hosts=room)
        serving = sum(r.phase is P.READY for r in given_replicas)
        now = NOW
        for _ in range(80):
            seen = _live_on(seen, plan(seen, now), now)
            now += timedelta(seconds=10)
            ready = sum(r.phase is P.READY for r in seen.replicas)
            floor = min(serving, wanted) - policy["max_unavailable"]
            assert strategy is RolloutStrategy.RECREATE or ready >= floor

        assert seen.rollout is None
        assert plan(seen, now) == []
        assert [r.revision_number for r in seen.replicas] == [2] * wanted


def _live_on(seen: Snapshot, steps, now) -> Snapshot:
    """Carry steps out in a faultless world; a canary finds its evidence at once."""
    replicas = tuple(
        replace(r, phase=P.READY, phase_at=now) if r.phase in (P.FETCHING, P.STARTING) else r
        for r in seen.replicas
    )
    seen = replace(seen, replicas=replicas)
    plain = [s for s in steps if not isinstance(s, (*_MOVES, CreateReplica))]
    old_ids = {r.id for r in seen.replicas}
    known = [s for s in plain if getattr(s, "replica_id", None) in old_ids]
    seen = carry_out(seen, known, now)
    for step in steps:
        seen = _move(seen, step, now)
    return seen


_MOVES = (AdvanceRollout, FinishRollout, NoteProgress, NoteVerdict, PauseRollout, RollBack)


def _move(seen: Snapshot, step, now) -> Snapshot:
    rollout = seen.rollout
    match step:
        case CreateReplica(revision_id):
            is_old = revision_id == OLD_REVISION
            made = (old if is_old else replica)(
                P.PENDING, host_id=None, host_state=None, created_at=now, id=uuid4()
            )
            return replace(seen, replicas=(*seen.replicas, made))
        case AdvanceRollout(stage):
            evidence = {"live_evidence": slow(2000), "candidate_evidence": slow(200)}
            moved = replace(rollout, stage=stage, stage_at=now, progressed_at=now, **evidence)
            return replace(seen, rollout=moved)
        case NoteProgress(ready):
            return replace(seen, rollout=replace(rollout, most_ready=ready, progressed_at=now))
        case FinishRollout():
            return replace(seen, rollout=None)
        case _:
            return seen


class TestPolicy:
    @pytest.mark.parametrize(
        ("given_policy", "field", "words"),
        [
            ({"strategy": "canray"}, "strategy", "there are rolling"),
            ({"max_serge": 1}, "max_serge", "did you mean max_surge?"),
            ({"canary": {"weight": 1}}, "canary.weight", "did you mean weight_ratio?"),
            ({"canary": {"weight_ratio": 7}}, "canary.weight_ratio", "outside 0 to 1"),
            ({"max_surge": 0}, "max_surge", "nothing could move"),
            ({"shadow_ratio": 0.5}, "shadow_ratio", "canary or blue_green"),
            ({"max_failures": "3"}, "max_failures", "no whole number"),
            ({"auto_rollback": 1}, "auto_rollback", "neither true nor false"),
        ],
    )
    def test_says_what_is_wrong_where(self, given_policy, field, words):
        with pytest.raises(BadPolicy, match=words.replace("?", r"\?")) as caught:
            parse(given_policy)
        assert caught.value.field == field

    def test_reads_back_what_it_writes(self):
        policy = parse({"strategy": "canary", "canary": {"keys": ["k"], "weight_ratio": 0.25}})

        assert parse(to_json(policy)) == policy
        assert parse({}) == RolloutPolicy()
