"""What is brought ahead of time: which rows are written, and who is named as a lender."""

from datetime import timedelta

import msgspec
import pytest

from agents.wire import CacheKind, CacheReport, CacheState, EngineKind, RuntimeKind
from apps.deployments import caches
from apps.deployments.desired import reply_for
from apps.deployments.lenders import weights_key
from apps.deployments.models import Deployment, Revision, ScalingPolicy
from apps.deployments.reconcile import prefetch
from apps.deployments.states import ReplicaPhase
from apps.fleet.models import CacheItem, Host
from apps.fleet.states import HostState
from apps.lib import secrets
from tests.apps.deployments.factories import (
    NOW,
    make_deployment,
    make_host,
    make_inventory,
    make_replica,
    make_spec,
)

WEIGHTS = make_spec(engine=EngineKind.VLLM).weights.key
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def make_reachable(name: str, **columns) -> Host:
    """Return a host that is ready and has a relay."""
    host = make_host(name=name, **columns)
    inventory = msgspec.structs.replace(
        make_inventory(), relay_url=f"http://{name}:9000", runtime=RuntimeKind.PROCESS
    )
    host.inventory = msgspec.to_builtins(inventory)
    host.relay_key = f"relay-key-of-{name}"
    host.state = HostState.READY
    host.save()
    return host


@pytest.fixture
def chat() -> Deployment:
    """A deployment of the real engine that keeps what a start needs on one more host."""
    row = make_deployment()
    spec = make_spec(engine=EngineKind.VLLM)
    Revision.objects.filter(deployment=row).update(
        engine=EngineKind.VLLM, spec=msgspec.to_builtins(spec)
    )
    ScalingPolicy.objects.filter(pk=row.pk).update(cached_replicas=1)
    return row


def weights_on(host: Host) -> CacheItem:
    return CacheItem.objects.get(host=host, kind=CacheKind.WEIGHTS)


def holds(host: Host, checksum: str) -> None:
    """Let `host` say that the weights lie there whole."""
    host.inventory["weights"] = {WEIGHTS: checksum}
    host.save()


def tell(host: Host, state: CacheState, **more) -> None:
    report = CacheReport(item_id=str(weights_on(host).pk), state=state, **more)
    caches.record(host, [report], NOW)


class TestRows:
    def test_image_and_weights_are_ordered_where_no_replica_is(self, chat):
        alpha, beta = make_reachable("alpha"), make_reachable("beta")
        make_replica(deployment=chat, host=alpha)

        prefetch.run(NOW)

        found = CacheItem.objects.values_list("host__name", "kind", "wanted_by")
        assert sorted(found) == [
            ("beta", "image", ["chat"]),
            ("beta", "weights", ["chat"]),
        ]
        assert Host.objects.get(pk=beta.pk).revision > beta.revision

    def test_a_second_look_changes_nothing(self, chat):
        make_reachable("alpha")
        prefetch.run(NOW)

        assert prefetch.run(NOW + timedelta(seconds=5)) == 0

    def test_what_nobody_wants_any_more_is_forgotten(self, chat):
        make_reachable("alpha")
        prefetch.run(NOW)
        ScalingPolicy.objects.filter(pk=chat.pk).update(cached_replicas=0)

        prefetch.run(NOW)

        assert not CacheItem.objects.exists()

    def test_an_engine_that_cannot_sleep_keeps_its_sleepers_here(self, chat):
        make_reachable("alpha")
        ScalingPolicy.objects.filter(pk=chat.pk).update(cached_replicas=0, asleep_replicas=1)

        prefetch.run(NOW)
        assert not CacheItem.objects.exists()
        Revision.objects.filter(deployment=chat).update(sleep_fault="frees nothing")
        prefetch.run(NOW)

        assert CacheItem.objects.count() == 2


class TestLenders:
    @pytest.fixture
    def two(self, chat) -> tuple[Host, Host]:
        """Two hosts that are to have the weights."""
        ScalingPolicy.objects.filter(pk=chat.pk).update(cached_replicas=2)
        hosts = make_reachable("alpha"), make_reachable("beta")
        prefetch.run(NOW)
        return hosts

    def test_who_has_them_whole_is_named_with_checksum_and_a_key_that_opens_no_model(self, two):
        alpha, beta = two

        holds(alpha, "a" * 64)

        [lenders] = reply_for(beta.pk, 1, NOW).lenders
        [peer] = lenders.peers
        assert (peer.host, peer.url) == ("alpha", "http://alpha:9000")
        assert (lenders.weights_key, lenders.tree_sha256) == (WEIGHTS, "a" * 64)
        assert peer.key == weights_key(alpha.relay_key) != alpha.relay_key
        assert reply_for(alpha.pk, 1, NOW).weights_key_sha256 == (secrets.digest(peer.key),)

    def test_a_replica_that_starts_is_told_as_well(self, chat):
        alpha, beta = make_reachable("alpha"), make_reachable("beta")
        holds(alpha, "a" * 64)

        make_replica(deployment=chat, host=beta, phase=ReplicaPhase.FETCHING)

        [lenders] = reply_for(beta.pk, 1, NOW).lenders
        assert [peer.host for peer in lenders.peers] == ["alpha"]

    def test_a_replica_that_serves_needs_nobody(self, chat):
        alpha, beta = make_reachable("alpha"), make_reachable("beta")
        holds(alpha, "a" * 64)

        make_replica(deployment=chat, host=beta, phase=ReplicaPhase.READY)

        assert reply_for(beta.pk, 1, NOW).lenders == ()

    def test_nobody_is_named_before_one_says_that_they_are_whole(self, two):
        alpha, beta = two

        tell(alpha, CacheState.FETCHING)

        assert reply_for(beta.pk, 1, NOW).lenders == ()

    def test_a_host_that_is_away_is_not_named(self, two):
        alpha, beta = two
        holds(alpha, "a" * 64)

        Host.objects.filter(pk=alpha.pk).update(state=HostState.LOST)

        assert reply_for(beta.pk, 1, NOW).lenders == ()

    def test_hosts_that_differ_are_not_mixed_and_most_are_right(self, two):
        alpha, beta = two
        holds(alpha, "b" * 64)
        for name in ("gamma", "delta"):
            holds(make_reachable(name), "a" * 64)

        [lenders] = reply_for(beta.pk, 1, NOW).lenders

        assert lenders.tree_sha256 == "a" * 64
        assert {peer.host for peer in lenders.peers} == {"gamma", "delta"}
