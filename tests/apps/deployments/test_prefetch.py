"""What is brought ahead of time: which rows are written, and what a host is told of its peers."""

from datetime import timedelta

import msgspec
import pytest

from agents.wire import CacheKind, CacheReport, CacheState, EngineKind, RuntimeKind
from apps.deployments import caches
from apps.deployments.desired import reply_for, weights_key
from apps.deployments.models import Deployment, Revision, ScalingPolicy
from apps.deployments.reconcile import prefetch
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


class TestPeers:
    @pytest.fixture
    def two(self, chat) -> tuple[Host, Host]:
        """Two hosts that are to have the weights."""
        ScalingPolicy.objects.filter(pk=chat.pk).update(cached_replicas=2)
        hosts = make_reachable("alpha"), make_reachable("beta")
        prefetch.run(NOW)
        return hosts

    def ordered(self, host: Host):
        items = reply_for(host.pk, 1, NOW).cache_items
        return next(item.weights for item in items if item.kind is CacheKind.WEIGHTS)

    def test_who_has_them_whole_is_named_with_checksum_and_a_key_that_opens_no_model(self, two):
        alpha, beta = two

        tell(alpha, CacheState.PRESENT, sha256="a" * 64, bytes=7)

        weights = self.ordered(beta)
        [peer] = weights.peers
        assert (peer.host, peer.url) == ("alpha", "http://alpha:9000")
        assert weights.tree_sha256 == "a" * 64
        assert peer.key == weights_key(alpha.relay_key) != alpha.relay_key
        assert reply_for(alpha.pk, 1, NOW).weights_key_sha256 == (secrets.digest(peer.key),)

    @pytest.mark.parametrize(
        ("state", "sha256"),
        [(CacheState.FETCHING, ""), (CacheState.FAILED, ""), (CacheState.PRESENT, "")],
        ids=["under way", "failed", "no checksum told"],
    )
    def test_nobody_is_named_before_they_are_whole(self, two, state, sha256):
        alpha, beta = two

        tell(alpha, state, sha256=sha256)

        assert self.ordered(beta).peers == ()

    def test_a_host_that_is_away_is_not_named(self, two):
        alpha, beta = two
        tell(alpha, CacheState.PRESENT, sha256="a" * 64)

        Host.objects.filter(pk=alpha.pk).update(state=HostState.LOST)

        assert self.ordered(beta).peers == ()
