"""What gateways are told of deployments and keys."""

from datetime import timedelta

import msgspec
import pytest

from agents.wire import Adapter, Endpoint, EngineKind, EngineSettings, WeightsRef
from apps.deployments.states import (
    DeploymentPhase,
    DesiredDeployment,
    DesiredReplica,
    ReplicaPhase,
)
from apps.traffic import actions, queries
from gateway.wire import KvEvents, ModelRoute, RoutingTable
from tests.apps.traffic import world

pytestmark = pytest.mark.django_db


def table(host: str = "alpha") -> RoutingTable:
    return queries.routing_table(host, world.NOW)


def route(name: str = "smol", host: str = "alpha") -> ModelRoute:
    return table(host).models[name]


class TestReplicas:
    @pytest.mark.parametrize("phase", sorted(ReplicaPhase))
    def test_only_those_that_serve_or_drain_are_routed_to(self, phase):
        world.replica(world.deployment(), world.host(), phase)

        states = [replica.state for replica in route().replicas]

        expected = {ReplicaPhase.READY: ["ready"], ReplicaPhase.DRAINING: ["draining"]}
        assert states == expected.get(phase, [])

    def test_one_that_is_to_go_takes_nothing_new_although_it_is_ready(self):
        world.replica(world.deployment(), world.host(), desired=DesiredReplica.DRAINED)

        assert [replica.state for replica in route().replicas] == ["draining"]

    def test_one_without_an_endpoint_is_left_out(self):
        world.replica(world.deployment(), world.host(), endpoint=None)

        assert route().replicas == ()

    def test_one_without_a_relay_is_left_out_for_other_hosts(self):
        endpoint = {"address": "unix:/run/e.sock"}
        world.replica(world.deployment(), world.host(), endpoint=endpoint)

        assert len(route(host="alpha").replicas) == 1
        assert route(host="beta").replicas == ()

    def test_tells_capacity_and_when_it_became_ready(self):
        world.replica(world.deployment(), world.host(), kv_cache_tokens=1234)

        (replica,) = route().replicas

        assert (replica.kv_cache_tokens, replica.ready_at) == (1234, world.NOW.timestamp())


class TestModels:
    def test_each_lora_adapter_is_a_model_of_its_own_on_the_same_replicas(self):
        adapter = Adapter(name="smol:support", weights=WeightsRef(key="a", source="path:/a"))
        world.replica(
            world.deployment(engine_spec=world.spec("smol", adapters=(adapter,))), world.host()
        )

        found = route("smol:support")

        assert found.replicas == route("smol").replicas
        assert (found.deployment, found.upstream_name) == ("smol", "")

    @pytest.mark.parametrize(
        ("engine_spec", "block_tokens"),
        [
            ({"device": "cpu"}, 128),
            ({"device": "cuda"}, 16),
            ({"device": "cpu", "engine": EngineKind.SIMULATOR}, 16),
            ({"device": "cuda", "settings": EngineSettings(block_size=32)}, 32),
        ],
        ids=["cpu", "cuda", "simulator", "set"],
    )
    def test_tells_the_engines_block_size(self, engine_spec, block_tokens):
        world.deployment(engine_spec=world.spec("smol", **engine_spec))

        assert route().block_tokens == block_tokens

    def test_tells_gateways_of_the_same_host_where_the_engine_tells_of_its_cache(self):
        settings = EngineSettings(kv_events=True)
        row = world.deployment(engine_spec=world.spec("smol", settings=settings))
        address, relay = "unix:/run/r-g1/engine.sock", "http://alpha:7000/r/r"
        endpoint = msgspec.to_builtins(Endpoint(address=address, relay_url=relay))
        world.replica(row, world.host("alpha"), endpoint=endpoint)

        (near,) = table("alpha").models["smol"].replicas
        (far,) = table("beta").models["smol"].replicas

        assert near.kv_events == KvEvents(
            endpoint="ipc:///run/r-g1/kv.sock", replay_endpoint="ipc:///run/r-g1/kvr.sock"
        )
        assert far.kv_events is None

    def test_tells_limits_and_context(self):
        world.deployment(engine_spec=world.spec("smol", max_in_flight=7))

        assert (route().max_in_flight_per_replica, route().context_tokens) == (7, 4096)

    def test_tells_the_engines_name_when_it_is_another(self):
        world.deployment("mine", engine_spec=world.spec("other"))
        world.deployment("same")

        assert (route("mine").upstream_name, route("same").upstream_name) == ("other", "")

    def test_a_stopped_one_stays_until_its_last_replica_has_drained(self):
        row = world.deployment(desired=DesiredDeployment.STOPPED)
        replica = world.replica(row, world.host(), ReplicaPhase.DRAINING)
        assert len(route().replicas) == 1

        replica.phase = ReplicaPhase.STOPPED
        replica.save()

        assert table().models == {}


class TestWaking:
    def test_one_at_zero_can_be_woken(self):
        world.deployment(phase=DeploymentPhase.ASLEEP)

        assert (route().wakeable, route().wake.phase) == (True, "asleep")

    def test_one_that_serves_need_not_be(self):
        world.replica(world.deployment(), world.host())

        assert (route().wakeable, route().wake) == (False, None)

    @pytest.mark.parametrize(
        "columns",
        [
            {"phase": DeploymentPhase.FAILED},
            {"phase": DeploymentPhase.STOPPED},
            {"phase": DeploymentPhase.ASLEEP, "max_replicas": 0},
        ],
        ids=["failed", "stopped", "none allowed"],
    )
    def test_one_that_cannot_come_up_is_not_rung_for(self, columns):
        world.deployment(**columns)

        assert not route().wakeable

    def test_tells_how_far_it_is_in_steps_of_ten_seconds(self):
        progress = {"stage": "weights", "eta_seconds": 31.4}
        row = world.deployment()
        world.replica(row, world.host(), ReplicaPhase.FETCHING, endpoint=None, progress=progress)

        assert (route().wake.phase, route().wake.eta_seconds) == ("weights", 40.0)


class TestKeys:
    def make(self, owner=None, **limits):
        return actions.create_key(
            name="k",
            owner=owner or world.user(),
            limits=actions.KeyLimits(**limits),
            actor="a",
            now=world.NOW,
        )[0]

    def test_shares_cached_prefixes_between_the_keys_of_one_team_alone(self):
        ada, bob, eve = world.user("ada"), world.user("bob"), world.user("eve")
        eve.team = "other"
        eve.save()
        made = [self.make(ada), self.make(bob), self.make(eve)]

        tenants = {key.id: key.tenant for key in table().keys}

        one, two, three = (tenants[str(key.pk)] for key in made)
        assert one == two != three

    def test_an_expired_one_is_told_as_such_for_a_day(self):
        expires_at = world.NOW + timedelta(hours=1)
        self.make(expires_at=expires_at)

        assert table().keys[0].expires_at == expires_at.timestamp()
        assert queries.routing_table("", expires_at + timedelta(days=1, seconds=1)).keys == ()

    def test_one_whose_owner_is_gone_does_not_work(self):
        self.make().owner.delete()

        assert table().keys == ()


def test_any_number_of_deployments_costs_the_same_queries(django_assert_num_queries):
    host = world.host()
    for number in range(5):
        world.replica(world.deployment(f"d{number}"), host)
    table()  # reads each new revision once

    with django_assert_num_queries(7):
        assert len(table().models) == 5


def test_marks_move_with_keys_and_tables():
    before = queries.marks()
    actions.refresh_table(world.NOW)
    between = queries.marks()
    TestKeys().make()

    assert before != between != queries.marks()
