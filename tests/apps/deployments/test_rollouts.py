"""Rollouts in the database: begun by a change, judged by usage, ended by plan or by people."""

from datetime import timedelta

import pytest

from apps.deployments import actions, evidence, queries, rollout_orders, rollouts
from apps.deployments.evidence import Sample
from apps.deployments.models import Decision, Deployment, Event, Rollout
from apps.deployments.orders import Change, NewDeployment, Scaling
from apps.deployments.reconcile import loop
from apps.deployments.reconcile.fleet import Fleet
from apps.deployments.reconcile.load import load
from apps.deployments.reconcile.plan import plan
from apps.deployments.states import DesiredReplica, ReplicaPhase, RolloutStage, RolloutState
from apps.lib.problems import Problem
from apps.traffic import queries as traffic
from tests.apps.deployments.factories import NOW, make_host, make_replica

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

WHO = {"actor": "ada", "now": NOW}
CANARY = {"strategy": "canary", "canary": {"min_requests": 20, "weight_ratio": 0.5}}


def serving(policy: dict | None = None, count: int = 1) -> Deployment:
    """A deployment of revision 1 whose replicas serve."""
    host = make_host()
    order = NewDeployment(
        catalog="smollm2-135m-instruct",
        name="chat",
        engine={"kind": "simulator"},
        scaling=Scaling(min_replicas=count),
        rollout=policy or {},
    )
    row = actions.create(order, **WHO)
    for _ in range(count):
        make_replica(deployment=row, host=host, ready_at=NOW, endpoint=ENDPOINT)
    return row


ENDPOINT = {"address": "unix:/run/x.sock", "relay_url": "http://relay/x", "api_key": "k"}


def changed(row: Deployment, **engine) -> Rollout:
    """Order revision 2; return its rollout."""
    patch = Change(engine={"kind": "simulator", "max_num_seqs": 4, **engine})
    actions.change(row, patch=patch, **WHO)
    return Rollout.objects.get(state=RolloutState.OPEN)


def one_pass(now=NOW) -> None:
    loop.bring_about(Deployment.objects.values_list("pk", flat=True), now, Fleet())


def all_ready() -> None:
    row = Deployment.objects.get()
    coming = row.replicas.exclude(phase=ReplicaPhase.STOPPED).filter(phase=ReplicaPhase.PENDING)
    coming.update(phase=ReplicaPhase.READY, phase_at=NOW, ready_at=NOW, endpoint=ENDPOINT)


def samples(revision: int, count: int, *, ttft: float = 0.1, **more) -> list[Sample]:
    values = {"admitted_at": NOW + timedelta(seconds=1), "failed": False, "ttft_seconds": ttft}
    return [
        Sample(deployment="chat", revision=revision, **{**values, **more}) for _ in range(count)
    ]


def refusal(call) -> Problem:
    with pytest.raises(Problem) as caught:
        call()
    return caught.value


class TestBegin:
    def test_a_change_of_the_engine_starts_one_and_keeps_what_is_live(self):
        row = serving()

        rollout = changed(row)

        assert (rollout.live.number, rollout.candidate.number) == (1, 2)
        assert rollout.live_served
        row.refresh_from_db()
        assert row.live.number == 1
        assert queries.target_of(queries.get("chat")).number == 2

    def test_scaling_starts_none(self):
        row = serving()

        actions.change(row, patch=Change(scaling=Scaling(min_replicas=2)), **WHO)

        assert not Rollout.objects.exists()
        assert row.revisions.count() == 1

    def test_nothing_runs_so_the_new_revision_is_live_at_once(self):
        row = serving()
        row.replicas.update(phase=ReplicaPhase.STOPPED)

        patch = Change(engine={"kind": "simulator", "max_num_seqs": 4})
        actions.change(row, patch=patch, **WHO)

        row.refresh_from_db()
        assert row.live.number == 2
        assert not Rollout.objects.exists()

    def test_what_never_served_is_nothing_to_judge_by(self):
        row = serving(CANARY)
        row.replicas.update(phase=ReplicaPhase.STARTING, ready_at=None)

        assert changed(row).policy["strategy"] == "rolling"

    def test_a_change_writes_nothing_that_it_was_not_given(self):
        row, stale = serving(), queries.get("chat")
        actions.change(row, patch=Change(rollout={"max_surge": 3}), **WHO)

        actions.change(stale, patch=Change(scaling=Scaling(min_replicas=2)), **WHO)

        row.refresh_from_db()
        assert row.rollout["max_surge"] == 3

    def test_a_newer_change_takes_the_place_of_the_one_under_way(self):
        row = serving()
        first = changed(row)

        second = changed(row, max_num_seqs=8)

        first.refresh_from_db()
        assert first.state == RolloutState.SUPERSEDED
        assert (second.live.number, second.candidate.number) == (1, 3)

    def test_the_event_says_what_changed(self):
        changed(serving())

        event = Event.objects.filter(kind="deployment.changed").get()
        assert "settings.max_num_seqs" in event.message
        assert any(d["new"] == 4 for d in event.data["changes"])


class TestConflicts:
    @pytest.mark.parametrize("status", [409, 412])
    def test_the_later_editor_is_told_who_changed_what(self, status):
        row = serving()
        read = row.generation
        changed(row)
        late = Change(scaling=Scaling(min_replicas=2), if_generation=read, conflict_status=status)

        problem = refusal(lambda: actions.change(row, patch=late, actor="bob", now=NOW))

        assert (problem.status, problem.code) == (status, "changed_meanwhile")
        (told,) = problem.extra["changes"]
        assert told["by"] == "ada"
        assert any(d["field"] == "settings.max_num_seqs" for d in told["changes"])
        assert "max_num_seqs" in problem.detail
        row.scaling.refresh_from_db()
        assert row.scaling.min_replicas == 1


class TestPasses:
    def test_rolling_goes_from_the_change_to_the_end(self):
        row = serving()
        changed(row)

        one_pass()  # wants a candidate
        one_pass()  # places it
        all_ready()
        one_pass()  # notes it, drains the old one
        old = row.replicas.get(revision__number=1)
        assert old.desired == DesiredReplica.DRAINED
        one_pass()

        row.refresh_from_db()
        assert row.live.number == 2
        assert Rollout.objects.get().state == RolloutState.PROMOTED
        assert Event.objects.filter(kind="rollout.promoted").exists()

    def test_a_slower_canary_is_rolled_back_with_its_numbers(self):
        row = serving(CANARY)
        rollout = changed(row)
        one_pass()
        one_pass()
        all_ready()
        one_pass()
        one_pass()
        rollout.refresh_from_db()
        assert rollout.stage == RolloutStage.CANARY
        table = traffic.routing_table("alpha", NOW).models["chat"]
        assert [(s.revision, s.weight_ratio) for s in table.shares] == [(2, 0.5), (1, 0.5)]

        evidence.add(samples(1, 40) + samples(2, 40, ttft=0.5))
        one_pass()

        rollout.refresh_from_db()
        assert rollout.state == RolloutState.ROLLED_BACK
        assert rollout.verdict["measures"][1]["candidate_samples"] == 40
        decision = Decision.objects.get(kind="rollout", reason__contains="back to revision 1")
        assert decision.inputs["candidate_requests"] == 40
        assert row.replicas.get(revision__number=2).desired == DesiredReplica.DRAINED
        row.refresh_from_db()
        assert row.live.number == 1
        assert traffic.routing_table("alpha", NOW).models["chat"].shares == ()
        one_pass()
        assert row.replicas.filter(desired=DesiredReplica.RUNNING).count() == 1

    def test_an_equal_canary_is_promoted(self):
        row = serving(CANARY)
        rollout = changed(row)
        for _ in range(2):
            one_pass()
        all_ready()
        for _ in range(2):
            one_pass()
        evidence.add(samples(1, 40) + samples(2, 40))
        for _ in range(4):
            one_pass()

        rollout.refresh_from_db()
        assert rollout.state == RolloutState.PROMOTED


class TestEvidence:
    def judged(self) -> Rollout:
        rollout = changed(serving(CANARY))
        rollouts.advance(rollout, RolloutStage.CANARY, now=NOW)
        return rollout

    def test_counts_only_what_came_in_the_stage_and_belongs_to_it(self):
        rollout = self.judged()

        evidence.add(
            samples(2, 3)
            + samples(2, 2, admitted_at=NOW - timedelta(seconds=1))
            + samples(7, 2)
            + samples(2, 4, failed=True)
            + samples(2, 5, is_shadow=True)
        )

        rollout.refresh_from_db()
        assert {k: v["requests"] for k, v in rollout.evidence.items()} == {"2": 7, "shadow": 5}
        assert rollout.evidence["2"]["failed"] == 4
        assert sum(rollout.evidence["2"]["ttft"].values()) == 3

    def test_costs_one_query_while_nothing_is_judged(self, django_assert_num_queries):
        serving()

        with django_assert_num_queries(1):
            evidence.add(samples(1, 50))


class TestOrders:
    def test_rollback_of_an_open_one_gives_it_up_and_restarts_nothing(self):
        row = serving()
        rollout = changed(row)

        rollout_orders.rollback(row, None, **WHO)

        rollout.refresh_from_db()
        assert (rollout.state, rollout.reason) == (RolloutState.ROLLED_BACK, "by ada")
        assert row.revisions.count() == 2
        assert queries.target_of(queries.get("chat")).number == 1
        assert plan(load()[0], NOW) == []

    def test_rollback_after_the_end_goes_to_what_was_live_before_without_a_verdict(self):
        row = serving(CANARY)
        changed(row)
        rollouts.close(row, RolloutState.PROMOTED, "", now=NOW)

        rollout_orders.rollback(row, None, **WHO)

        rollout = Rollout.objects.get(state=RolloutState.OPEN)
        assert rollout.candidate.number == 3
        assert rollout.candidate.spec == row.revisions.get(number=1).spec
        assert rollout.policy["strategy"] == "rolling"

    def test_a_change_builds_on_what_is_live_not_on_what_was_given_up(self):
        row = serving()
        changed(row, block_size=32)
        rollout_orders.rollback(row, None, **WHO)

        actions.change(row, patch=Change(variant=row.live.variant), **WHO)

        assert row.revisions.count() == 2

    def test_promote_needs_a_candidate_that_serves(self):
        row = serving(CANARY)
        rollout = changed(row)

        assert refusal(lambda: rollout_orders.promote(row, **WHO)).code == "not_ready"
        make_replica(deployment=row, host=make_host(name="beta"), ready_at=NOW)
        rollout_orders.promote(row, **WHO)

        rollout.refresh_from_db()
        assert rollout.stage == RolloutStage.PROMOTING

    def test_pause_and_resume(self):
        row = serving()
        rollout = changed(row)

        rollout_orders.pause(row, **WHO)
        assert plan(load()[0], NOW) == []
        rollout_orders.resume(row, actor="ada", now=NOW + timedelta(hours=1))

        rollout.refresh_from_db()
        assert not rollout.paused
        assert rollout.progressed_at == NOW + timedelta(hours=1)

    @pytest.mark.parametrize("order", [rollout_orders.promote, rollout_orders.pause])
    def test_without_a_rollout_there_is_nothing_to_order(self, order):
        assert refusal(lambda: order(serving(), **WHO)).code == "no_rollout"

    def test_a_policy_with_a_typo_names_the_field(self):
        row = serving()
        patch = Change(rollout={"max_serge": 2})

        problem = refusal(lambda: actions.change(row, patch=patch, **WHO))

        assert problem.extra["field"] == "rollout.max_serge"
