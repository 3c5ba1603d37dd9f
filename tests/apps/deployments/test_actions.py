"""Orders of people: what they write, and what is refused with which words."""

import pytest

from apps.accounts.models import AuditEntry
from apps.deployments import actions, rollout_orders
from apps.deployments.models import Decision, Deployment, Event, Replica
from apps.deployments.orders import Change, NewDeployment, PlacementWish, Resources, Scaling
from apps.deployments.queries import wanted_replicas
from apps.deployments.states import DesiredDeployment, DesiredReplica, ReplicaPhase
from apps.lib.problems import Problem
from tests.apps.deployments.factories import NOW, make_deployment, make_host, make_replica

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

SMOL = "smollm2-135m-instruct"
WHO = {"actor": "ada", "now": NOW}


def order(**changes) -> NewDeployment:
    return NewDeployment(**{"catalog": SMOL, **changes})


def refusal(call) -> Problem:
    with pytest.raises(Problem) as caught:
        call()
    return caught.value


class TestCreate:
    def test_needs_no_more_than_a_catalog_entry(self):
        make_host()

        row = actions.create(order(), **WHO)

        revision = row.revisions.get()
        assert (row.name, row.scaling.min_replicas, revision.number) == (SMOL, 1, 1)
        assert revision.spec["served_names"] == [SMOL]
        assert 1.8e9 < revision.need["total_bytes"] < 2.6e9

    def test_numbers_names_that_are_taken(self):
        make_host()

        names = [actions.create(order(), **WHO).name for _ in range(3)]

        assert names == [SMOL, f"{SMOL}-2", f"{SMOL}-3"]

    def test_leaves_a_decision_an_event_and_an_audit_entry(self):
        make_host()

        actions.create(order(), **WHO)

        assert Decision.objects.get().kind == "variant"
        assert Event.objects.get().kind == "deployment.created"
        assert AuditEntry.objects.get().action == "deployment.created"

    def test_refuses_a_given_name_that_is_taken(self):
        make_host()
        actions.create(order(name="mine"), **WHO)

        problem = refusal(lambda: actions.create(order(name="mine"), **WHO))

        assert (problem.status, problem.code, problem.extra["field"]) == (409, "name_taken", "name")
        assert Deployment.objects.count() == 1

    @pytest.mark.parametrize("name", ["Mine", "a_b", "-a", "a b", "", "x" * 64, "plan"])
    def test_refuses_characters_that_a_name_cannot_have(self, name):
        make_host()

        problem = refusal(lambda: actions.create(order(name=name), **WHO))

        assert (problem.status, problem.extra["field"]) == (400, "name")

    def test_names_near_entries_for_one_that_does_not_exist(self):
        problem = refusal(lambda: actions.create(order(catalog="smollm2-135m"), **WHO))

        assert (problem.status, problem.code) == (400, "unknown_catalog_entry")
        assert SMOL in problem.detail

    def test_names_the_variants_for_one_that_does_not_exist(self):
        make_host()

        problem = refusal(lambda: actions.create(order(variant="fp99"), **WHO))

        assert problem.code == "unknown_variant"
        assert "bf16" in problem.detail

    def test_says_by_how_much_a_model_does_not_fit(self):
        make_host(memory_gib=2)

        problem = refusal(lambda: actions.create(order(), **WHO))

        assert (problem.status, problem.code) == (422, "does_not_fit")
        assert problem.extra["missing_bytes"] > 0
        assert problem.extra["reasons"]
        assert not Deployment.objects.exists()

    def test_refuses_more_memory_than_any_host_has(self):
        make_host(memory_gib=16)
        wish = Resources(memory_bytes=9_000_000_000_000)

        problem = refusal(lambda: actions.create(order(resources=wish), **WHO))

        assert (problem.status, problem.extra["field"]) == (422, "resources.memory_bytes")

    def test_accepts_an_order_that_may_wait_for_room(self):
        row = actions.create(order(placement=PlacementWish(wait=True)), **WHO)

        assert row.revisions.get().need["total_bytes"] > 0

    @pytest.mark.parametrize(
        ("engine", "field"),
        [
            ({"max_model_length": 5}, "engine.max_model_length"),
            ({"max_model_len": 0}, "engine.max_model_len"),
            ({"max_model_len": 1_000_000}, "engine.max_model_len"),
            ({"kind": "sglang"}, "engine.kind"),
        ],
    )
    def test_names_the_engine_setting_that_is_wrong(self, engine, field):
        make_host()

        problem = refusal(lambda: actions.create(order(engine=engine), **WHO))

        assert (problem.status, problem.extra["field"]) == (400, field)

    def test_refuses_a_minimum_above_the_maximum(self):
        make_host()
        scaling = Scaling(min_replicas=3, max_replicas=2)

        problem = refusal(lambda: actions.create(order(scaling=scaling), **WHO))

        assert problem.extra["field"] == "scaling.min_replicas"

    def test_simulates_any_model_on_a_small_host_and_says_so(self):
        make_host(memory_gib=1)

        row = actions.create(
            order(catalog="llama-3.3-70b-instruct", engine={"kind": "simulator"}), **WHO
        )

        assert row.revisions.get().engine == "simulator"


class TestChange:
    def test_scales_without_a_new_revision(self):
        row = make_deployment()

        actions.change(row, patch=Change(scaling=Scaling(min_replicas=3)), **WHO)

        row.scaling.refresh_from_db()
        assert (row.scaling.min_replicas, row.scaling.max_replicas) == (3, 3)
        assert (row.revisions.count(), row.generation) == (1, 2)

    def test_an_engine_setting_makes_a_new_revision(self):
        make_host()
        row = actions.create(order(), **WHO)

        actions.change(row, patch=Change(engine={"max_model_len": 1024}), **WHO)

        assert row.revisions.latest("number").number == 2
        assert row.revisions.latest("number").spec["settings"]["max_model_len"] == 1024

    def test_the_same_settings_make_no_new_revision(self):
        make_host()
        row = actions.create(order(), **WHO)

        actions.change(row, patch=Change(engine={}), **WHO)

        assert row.revisions.count() == 1

    def test_refuses_a_change_of_what_has_changed_meanwhile(self):
        row = make_deployment()
        actions.change(row, patch=Change(scaling=Scaling(min_replicas=2)), **WHO)
        late = Change(scaling=Scaling(min_replicas=9), if_generation=1)

        problem = refusal(lambda: actions.change(row, patch=late, **WHO))

        assert problem.status == 412

    def test_rolls_back_to_the_settings_of_an_older_revision(self):
        make_host()
        row = actions.create(order(), **WHO)
        actions.change(row, patch=Change(engine={"max_model_len": 1024}), **WHO)

        rollout_orders.rollback(row, 1, **WHO)

        newest = row.revisions.latest("number")
        assert (newest.number, newest.spec) == (3, row.revisions.get(number=1).spec)

    def test_names_the_revisions_there_are(self):
        problem = refusal(lambda: rollout_orders.rollback(make_deployment(), 7, **WHO))

        assert (problem.status, problem.code) == (404, "unknown_revision")


class TestStartStopDelete:
    def test_stop_then_start_wants_it_running_again(self):
        row = make_deployment(wanted=0)

        actions.stop(row, **WHO)
        assert Deployment.objects.get().desired == DesiredDeployment.STOPPED
        actions.start(row, **WHO)

        found = Deployment.objects.select_related("scaling").get()
        assert found.desired == DesiredDeployment.RUNNING
        assert wanted_replicas(found) == 1

    def test_nothing_brings_back_what_is_being_deleted(self):
        row = make_deployment()
        actions.delete(row, **WHO)

        assert refusal(lambda: actions.start(row, **WHO)).code == "being_deleted"


class TestOrdersToReplicas:
    def test_a_drained_replica_leaves_the_routes_at_once(self):
        replica = make_replica(deployment=make_deployment(), host=make_host())

        actions.drain(replica, now=NOW, seconds=30, why="test", actor="x")

        row = Replica.objects.get()
        assert (row.phase, row.desired) == (ReplicaPhase.DRAINING, DesiredReplica.DRAINED)

    def test_a_tombstone_is_a_new_generation_and_a_new_host_revision(self):
        host = make_host()
        replica = make_replica(deployment=make_deployment(), host=host)

        actions.order_gone(replica, now=NOW, why="test", actor="x")

        row = Replica.objects.select_related("host").get()
        assert (row.desired, row.generation) == (DesiredReplica.ABSENT, 2)
        assert row.host.revision == 1

    def test_one_that_was_never_placed_is_gone_at_once(self):
        replica = make_replica(deployment=make_deployment(), phase=ReplicaPhase.PENDING)

        actions.order_gone(replica, now=NOW, why="test", actor="x")

        assert Replica.objects.get().phase == ReplicaPhase.STOPPED
