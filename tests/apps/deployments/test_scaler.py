"""The autoscaler's rim: what it reads, what it writes, and that a live run can be decided again."""

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest

from apps.deployments.models import (
    Decision,
    Replica,
    ScalerState,
    ScalingPolicy,
    ScalingRecord,
)
from apps.deployments.queries import wanted_replicas
from apps.deployments.reconcile import scaler as scaler_module
from apps.deployments.reconcile import scaling_rows
from apps.deployments.reconcile.autoscale import decide
from apps.deployments.reconcile.load import load
from apps.deployments.reconcile.scaler import Scaler
from apps.deployments.reconcile.scaling.values import Observations, Policy, State
from apps.deployments.states import ReplicaPhase
from apps.telemetry.counters import Seen
from apps.telemetry.live import Newest
from gateway.wire import Counts, Live
from tests.apps.deployments.factories import NOW, make_deployment, make_host, make_replica

pytestmark = pytest.mark.django_db


@dataclass
class Gateways:
    """One gateway whose numbers a test sets; it counts admissions as a gateway does."""

    in_flight: int = 0
    queued: int = 0
    total: int = 0
    rung: bool = False
    silent: bool = False
    samples: dict = field(default_factory=dict)

    def newest(self, now):
        if self.silent:
            return Newest({}, {})
        counts = Counts(in_flight=self.in_flight, queued=self.queued, requests_total=self.total)
        reading = Live(gateway_id="g", started_at=0, seq=1, deployments={"chat": counts})
        return Newest({"g": Seen(now.timestamp(), reading)}, self.samples)

    def wakes(self, now):
        return frozenset({"chat"} if self.rung else ())


@pytest.fixture
def gateways(monkeypatch) -> Gateways:
    found = Gateways()
    monkeypatch.setattr(scaler_module.live, "newest", found.newest)
    monkeypatch.setattr(scaler_module.live, "wakes", found.wakes)
    monkeypatch.setattr(Scaler, "_lead", lambda self: True)
    return found


def elastic(**columns):
    row = make_deployment()
    changes = {"min_replicas": 1, "max_replicas": 8, "target_concurrency": 4, **columns}
    ScalingPolicy.objects.filter(pk=row.pk).update(**changes)
    return row


def run(scaler, gateways, seconds, *, start=0, per_tick=0):
    for second in range(start, start + seconds, 2):
        gateways.total += per_tick
        scaler.tick(NOW + timedelta(seconds=second))


def decisions():
    return list(Decision.objects.filter(kind="scaling").order_by("id"))


class TestRows:
    def test_a_step_of_load_is_decided_once_with_everything_it_was_decided_from(self, gateways):
        row = elastic()
        make_replica(deployment=row, host=make_host())
        scaler = Scaler("one")
        run(scaler, gateways, 60)
        gateways.in_flight = 12
        gateways.total = 12

        run(scaler, gateways, 10, start=60, per_tick=6)

        first = decisions()[0]
        assert first.inputs["was"] == 1
        assert first.inputs["wanted"] > 1
        assert first.inputs["observations"]["in_flight"] == 12
        assert "requests at once" in first.reason
        assert ScalerState.objects.get().wanted_replicas == decisions()[-1].inputs["wanted"]

    def test_nothing_is_written_while_nothing_changes(self, gateways, django_assert_num_queries):
        row = elastic()
        make_replica(deployment=row, host=make_host())
        scaler = Scaler("one")
        run(scaler, gateways, 10)

        with django_assert_num_queries(2):  # the policies and the replicas
            run(scaler, gateways, 2, start=10)

        assert decisions() == []

    def test_a_fixed_number_is_nothing_to_decide(self, gateways):
        make_deployment(wanted=1)
        run(Scaler("one"), gateways, 10)

        assert not ScalerState.objects.exists()

    def test_the_planner_wants_what_the_autoscaler_wants_within_bounds_of_now(self, gateways):
        row = elastic()
        ScalerState.objects.create(deployment=row, wanted_replicas=5, updated_at=NOW)
        assert load()[0].wanted_replicas == 5

        ScalingPolicy.objects.filter(pk=row.pk).update(max_replicas=3)

        assert load()[0].wanted_replicas == 3

    def test_one_that_may_be_at_zero_starts_with_one_replica(self):
        row = elastic(min_replicas=0)

        assert wanted_replicas(row.__class__.objects.select_related("scaling").get()) == 1

    def test_a_budget_counts_the_gpus_of_the_newest_revision(self, gateways):
        row = elastic(gpu_budget=4, max_replicas=8)
        row.revisions.update(need={"gpus": 2, "total_bytes": 1})
        make_replica(deployment=row, host=make_host())
        scaler = Scaler("one")
        run(scaler, gateways, 4)
        gateways.in_flight = 100

        run(scaler, gateways, 60, start=4, per_tick=50)

        assert ScalerState.objects.get().wanted_replicas == 2
        assert "budget is 4 GPUs" in decisions()[-1].reason


class TestOfAnotherVersion:
    def test_a_policy_is_left_alone_and_told_once_while_others_are_decided(self, gateways, caplog):
        row = make_deployment(name="later")
        ScalingPolicy.objects.filter(pk=row.pk).update(max_replicas=4, schedule=[{"every": "moon"}])
        make_replica(deployment=elastic(), host=make_host())
        gateways.in_flight = gateways.total = 40

        run(Scaler("one"), gateways, 20, per_tick=10)

        assert decisions()
        assert {decision.deployment.name for decision in decisions()} == {"chat"}
        assert [r.message for r in caplog.records if "later" in r.message] == [
            caplog.records[0].message
        ]
        assert "cannot be read" in caplog.records[0].message

    def test_a_memory_begins_anew_with_what_is_there(self, gateways):
        row = elastic()
        for _ in range(3):
            make_replica(deployment=row, host=make_host(name=f"host-{Replica.objects.count()}"))
        ScalerState.objects.create(
            deployment=row, wanted_replicas=3, updated_at=NOW, memory={"wanted": "many"}
        )

        run(Scaler("one"), gateways, 10)

        assert load()[0].wanted_replicas == 3


class TestRhythm:
    def test_the_loop_rests_no_longer_than_until_the_next_decision_is_due(self, gateways):
        scaler = Scaler("one")

        scaler.tick(NOW)

        assert scaler.due_in_seconds(NOW + timedelta(seconds=0.5)) == pytest.approx(1.5)
        assert 0 < scaler.due_in_seconds(NOW + timedelta(seconds=5)) < 0.1

    def test_one_that_may_not_decide_asks_again_no_sooner(self, monkeypatch):
        monkeypatch.setattr(Scaler, "_lead", lambda self: False)
        scaler = Scaler("one")

        scaler.tick(NOW)

        assert scaler.due_in_seconds(NOW) == pytest.approx(2.0)


class TestZero:
    def test_idle_goes_to_zero_and_the_first_request_brings_one_back_at_once(self, gateways):
        row = elastic(min_replicas=0, scale_to_zero_after_seconds=20, hold_seconds=10)
        replica = make_replica(deployment=row, host=make_host())
        scaler = Scaler("one")
        run(scaler, gateways, 30)
        assert ScalerState.objects.get().at_zero
        replica.phase = ReplicaPhase.STOPPED
        replica.save()

        gateways.queued, gateways.rung = 1, True
        scaler.tick(NOW + timedelta(seconds=30.5))

        assert ScalerState.objects.get().wanted_replicas == 1
        assert "a request waits and nothing serves" in decisions()[-1].reason


class TestSilence:
    def test_no_gateway_freezes_it_and_says_so_once(self, gateways):
        row = elastic()
        make_replica(deployment=row, host=make_host())
        scaler = Scaler("one")
        gateways.in_flight = 12
        run(scaler, gateways, 40, per_tick=6)
        wanted = ScalerState.objects.get().wanted_replicas
        before = len(decisions())
        gateways.silent = True

        run(scaler, gateways, 600, start=40)

        told = decisions()[before:]
        assert ScalerState.objects.get().wanted_replicas == wanted
        assert len(told) == 1
        assert "no gateway has told its numbers" in told[0].reason


class TestTwoAutoscalers:
    def test_of_two_one_writes(self, gateways):
        row = elastic()
        make_replica(deployment=row, host=make_host())
        one, other = Scaler("one"), Scaler("other")
        for scaler in (one, other):
            run(scaler, gateways, 4)
        gateways.in_flight = 30

        run(one, gateways, 8, start=4, per_tick=15)
        wanted = ScalerState.objects.get().wanted_replicas
        rows = len(decisions())
        gateways.in_flight = 0
        run(other, gateways, 2, start=4)

        assert ScalerState.objects.get().wanted_replicas == wanted
        assert len(decisions()) == rows


class TestReplay:
    def burst(self, gateways, row):
        """Live through a quiet minute, a burst, a silence of the gateways and a restart."""
        scaler = Scaler("one")
        run(scaler, gateways, 60, per_tick=1)
        gateways.in_flight, gateways.queued = 16, 9
        run(scaler, gateways, 30, start=60, per_tick=8)
        gateways.silent = True
        run(scaler, gateways, 20, start=90)
        gateways.silent, gateways.in_flight, gateways.queued = False, 2, 0
        run(scaler, gateways, 100, start=110, per_tick=1)
        scaler = Scaler("after a restart")
        run(scaler, gateways, 700, start=260, per_tick=1)

    def test_the_stored_inputs_of_a_live_run_give_every_decision_again(self, gateways):
        row = elastic(hold_seconds=60)
        make_replica(deployment=row, host=make_host())
        self.burst(gateways, row)

        rows = decisions()
        again = [decide(*scaling_rows.decided_again(d.inputs)) for d in rows]

        assert len(rows) >= 4
        assert [d.wanted for d in again] == [d.inputs["wanted"] for d in rows]
        for decision, row in zip(again, rows, strict=True):
            assert decision.terms == pytest.approx(row.inputs["terms"], abs=0.001)
        for decision, row in zip(again, rows, strict=True):
            assert row.reason.endswith(decision.reason)

    def test_the_records_give_every_tick_again_from_their_first_state(self, gateways):
        row = elastic(hold_seconds=60)
        make_replica(deployment=row, host=make_host())
        self.burst(gateways, row)

        records = list(ScalingRecord.objects.order_by("start_at", "id"))
        for found in records:
            policy = msgspec.convert(found.policy, Policy)
            state = msgspec.convert(found.state, State) if found.state else None
            for at, wanted, seen in found.ticks:
                decision = decide(policy, state, msgspec.convert(seen, Observations), at)
                state = decision.state
                assert decision.wanted == wanted, at
        assert sum(len(found.ticks) for found in records) > 200


class TestNothingBelongsToNobody:
    def test_a_deleted_deployment_takes_its_rows_with_it(self, gateways):
        row = elastic()
        run(Scaler("one"), gateways, 4)

        row.delete()

        assert not ScalerState.objects.exists()
        assert isinstance(row.pk, UUID | None)
