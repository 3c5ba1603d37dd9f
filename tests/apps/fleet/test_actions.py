"""Signs of life, silence, and what people order of hosts."""

from datetime import timedelta
from decimal import Decimal

import pytest

from apps.accounts.models import AuditEntry
from apps.deployments.states import ReplicaPhase
from apps.fleet import actions, queries
from apps.fleet.models import Host, Incarnation
from apps.fleet.states import HostState
from apps.lib.problems import Problem
from tests.apps.deployments.factories import make_deployment, make_replica
from tests.apps.fleet.rows import NOW, make_gpu, make_host, make_inventory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def after(seconds: float):
    return NOW + timedelta(seconds=seconds)


class TestAuthenticate:
    def test_knows_no_made_up_credential(self):
        make_host()

        assert actions.authenticate("hearth-host_nope") is None

    def test_is_one_small_read(self, django_assert_num_queries):
        make_host()

        with django_assert_num_queries(1) as reads:
            actions.authenticate("x")

        assert "inventory" not in reads.captured_queries[0]["sql"]


class TestTouch:
    def test_writes_at_most_every_ten_seconds(self, django_assert_num_queries):
        host = make_host()

        with django_assert_num_queries(0):
            assert actions.touch(host, after(9)) is None
        with django_assert_num_queries(1):
            actions.touch(host, after(10))

        assert Host.objects.get().last_seen_at == after(10)

    @pytest.mark.parametrize("state", [HostState.UNKNOWN, HostState.LOST])
    def test_brings_a_silent_host_back_at_once(self, state):
        host = make_host(state=state)

        move = actions.touch(host, after(3))

        assert move is not None
        assert (move.old, move.new) == (state, HostState.READY)
        row = Host.objects.get()
        assert (row.state, row.state_at, row.last_seen_at) == ("ready", after(3), after(3))

    def test_tells_the_return_once(self):
        make_host(state=HostState.LOST)
        first, second = Host.objects.get(), Host.objects.get()

        assert actions.touch(first, after(1)) is not None
        assert actions.touch(second, after(1)) is None


class TestSweep:
    def test_goes_through_unknown_to_lost_and_stops_there(self):
        make_host()

        moves = [actions.sweep_silent(after(seconds)) for seconds in (39, 40, 299, 301, 999)]

        seen = [[(move.old, move.new) for move in made] for made in moves]
        assert seen == [[], [("ready", "unknown")], [], [("unknown", "lost")], []]

    def test_loses_nobody_after_a_pause_of_the_control_plane(self):
        make_host()
        paused = after(3600)

        actions.sweep_silent(paused)
        actions.sweep_silent(paused + timedelta(seconds=5))

        assert Host.objects.get().state == HostState.UNKNOWN

    def test_gives_up_nobody_while_half_of_the_hosts_are_silent(self):
        for name in ("a", "b"):
            make_host(name=name)
        for name in ("c", "d"):
            make_host(name=name, last_seen_at=after(1000))

        actions.sweep_silent(after(60))
        actions.sweep_silent(after(1000))

        assert set(Host.objects.filter(name__in="ab").values_list("state", flat=True)) == {
            "unknown"
        }

    def test_leaves_a_host_that_spoke_between_reading_and_writing(self, monkeypatch):
        make_host()
        stale = queries.seen_hosts()
        Host.objects.update(last_seen_at=after(50))
        monkeypatch.setattr(queries, "seen_hosts", lambda: stale)

        assert actions.sweep_silent(after(60)) == []
        assert Host.objects.get().state == HostState.READY


class TestDeclareLost:
    def test_gives_up_a_silent_host_at_once(self):
        host = make_host(state=HostState.UNKNOWN)

        move = actions.declare_lost(host=host, actor="ada", now=NOW)

        assert (move.new, Host.objects.get().state) == ("lost", "lost")
        assert AuditEntry.objects.get().action == "host.declared_lost"

    def test_never_gives_up_a_host_that_reports(self):
        with pytest.raises(Problem) as caught:
            actions.declare_lost(host=make_host(), actor="ada", now=NOW)

        assert (caught.value.status, caught.value.code) == (409, "host_not_silent")


class TestRecordInventory:
    def test_says_whether_anything_changed(self):
        host = make_host()

        assert not actions.record_inventory(host, make_inventory(), NOW)
        assert actions.record_inventory(host, make_inventory(gpus=(make_gpu(),)), NOW)

        assert queries.inventory_of(Host.objects.get()).gpus == (make_gpu(),)


class TestCordon:
    def test_is_audited_once_however_often_it_is_ordered(self):
        host = make_host()

        for _ in range(2):
            actions.drain(host=host, actor="ada")

        assert Host.objects.get().cordoned
        assert AuditEntry.objects.filter(action="host.drained").count() == 1

    def test_is_lifted(self):
        host = make_host(cordoned=True)

        actions.uncordon(host=host, actor="ada")

        assert not Host.objects.get().cordoned


class TestPrice:
    def test_of_a_host_is_its_own_before_the_default(self):
        host = make_host(gpus=(make_gpu(0), make_gpu(1)))

        assert queries.price_of(host) == (Decimal("4.80"), True)
        actions.set_price(host=host, price_per_hour_usd=Decimal("3"), actor="ada")
        assert queries.price_of(Host.objects.get()) == (Decimal("3"), False)
        actions.set_price(host=host, price_per_hour_usd=None, actor="ada")
        assert queries.price_of(Host.objects.get()) == (Decimal("4.80"), True)

    def test_of_a_kind_can_be_set_and_reset(self):
        host = make_host(gpus=(make_gpu(),))

        actions.set_default_price(kind="h100", price_per_hour_usd=Decimal("9"), actor="ada")
        assert queries.price_of(host)[0] == Decimal("9")
        actions.reset_default_price(kind="h100", actor="ada")
        assert queries.price_of(host)[0] == Decimal("2.40")


class TestDelete:
    def test_keeps_stopped_replicas_as_history(self):
        host = make_host(state=HostState.LOST, agent_epoch=1)
        replica = make_replica(deployment=make_deployment(), host=host, phase=ReplicaPhase.STOPPED)

        actions.delete_host(host=host, actor="ada")

        replica.refresh_from_db()
        assert replica.host is None
        assert not Host.objects.exists()

    def test_refuses_a_host_whose_agent_may_come_back(self):
        with pytest.raises(Problem) as caught:
            actions.delete_host(host=make_host(agent_epoch=1), actor="ada")

        assert caught.value.code == "host_alive"

    def test_takes_a_host_that_never_reported(self):
        actions.delete_host(host=make_host(), actor="ada")

        assert not Host.objects.exists()

    def test_refuses_a_host_that_holds_replicas(self):
        host = make_host(state=HostState.LOST)
        make_replica(deployment=make_deployment(), host=host)

        with pytest.raises(Problem) as caught:
            actions.delete_host(host=host, actor="ada")

        assert caught.value.code == "host_in_use"


class TestIncarnation:
    def test_is_made_once(self):
        assert actions.incarnation() == actions.incarnation()
        assert Incarnation.objects.count() == 1


class TestBumpRevision:
    def test_counts_up_by_row_or_id(self):
        host = make_host()

        actions.bump_revision(host)
        actions.bump_revision(host.pk)

        assert Host.objects.get().revision == 2
