"""A replica over two hosts from its order to its end, as rows: booked, ordered, told, replaced."""

from datetime import datetime, timedelta

import pytest

from agents.wire import DesiredPhase, GpuInfo, ObservedPhase, ReplicaOrder
from apps.deployments import actions, bookings, desired, members, observed
from apps.deployments.bookings import Wish
from apps.deployments.models import Booking, Decision, Deployment, Member, Replica
from apps.deployments.reconcile import loop
from apps.deployments.reconcile.fleet import Fleet
from apps.deployments.states import DesiredReplica
from apps.deployments.states import ReplicaPhase as P
from apps.fleet import queries as fleet_queries
from apps.fleet.models import Capacity, Host
from apps.fleet.states import HostState
from tests.apps.deployments.factories import (
    GIB,
    NOW,
    make_deployment,
    make_host,
    make_replica,
    make_report,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def h100(uuid: str) -> GpuInfo:
    return GpuInfo(
        uuid=uuid,
        index=0,
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=0,
    )


@pytest.fixture
def hosts() -> list[Host]:
    return [make_host(name=name, gpus=(h100(f"{name}-0"),)) for name in ("alpha", "beta")]


@pytest.fixture
def deployment(hosts: list[Host]) -> Deployment:
    row = make_deployment()
    need = {"total_bytes": 70 * GIB, "gpus": 2, "hosts": 2}
    row.revisions.update(need=need, device="cuda")
    return row


def reconcile(now: datetime = NOW) -> None:
    loop.bring_about(list(Deployment.objects.values_list("pk", flat=True)), now, Fleet())


def order_for(host: Host) -> ReplicaOrder:
    (order,) = desired.reply_for(host.pk, 1, NOW).replicas
    return order


def tell(host: Host, replica: Replica, phase: ObservedPhase, **more) -> None:
    """Let the agent of `host` report."""
    report = make_report(replica, phase, **more)
    observed.record_reports(host, [report], NOW)
    members.record_reports(host, [report], NOW)


def start(hosts: list[Host]) -> Replica:
    """Return a replica that serves from the first host."""
    reconcile()
    replica = Replica.objects.get()
    for host in reversed(hosts):
        tell(host, replica, ObservedPhase.READY)
    return Replica.objects.get()


class TestPlacement:
    def test_books_all_hosts_at_once_and_says_why(self, deployment, hosts):
        reconcile()

        replica = Replica.objects.get()
        assert replica.host == hosts[0]
        rows = replica.members.order_by("rank").values_list("rank", "host__name", "gpu_uuids")
        assert list(rows) == [(0, "alpha", ["alpha-0"]), (1, "beta", ["beta-0"])]
        assert list(Capacity.objects.values_list("whole_bookings", flat=True)) == [1, 1]
        decision = Decision.objects.get(kind="placement")
        assert decision.reason.startswith("alpha, beta hold it together with 1 GPU each")
        assert [m["host"] for m in decision.inputs["members"]] == ["alpha", "beta"]
        assert [h.live_replicas for h in fleet_queries.hosts()] == [1, 1]

    def test_books_nothing_of_it_where_one_host_has_no_room(self, deployment, hosts):
        other = make_replica(deployment=make_deployment(name="other"), phase=P.PENDING)
        whole = make_replica(deployment=deployment, phase=P.PENDING)
        rows = [(other, hosts[1]), (whole, hosts[0]), (whole, hosts[1])]

        refused = bookings.book_all(
            [
                Wish(
                    replica_id=replica.pk,
                    host_id=host.pk,
                    gpu_uuids=(f"{host.name}-0",),
                    memory_bytes=GIB,
                )
                for replica, host in rows
            ]
        )

        assert list(refused) == [whole.pk]
        assert [booking.replica for booking in Booking.objects.all()] == [other]

    def test_orders_each_host_its_seat(self, deployment, hosts):
        reconcile()

        head, worker = (order_for(host) for host in hosts)

        assert (head.replica_id, head.generation) == (worker.replica_id, worker.generation)
        assert [order.seat.rank for order in (head, worker)] == [0, 1]
        assert head.spec.gpu_uuids == ("alpha-0",)
        assert worker.spec.gpu_uuids == ("beta-0",)
        assert head.seat.size == 2
        assert head.seat.master_address == "10.0.0.1"
        assert 29500 <= head.seat.master_port == worker.seat.master_port <= 29599

    def test_no_two_groups_meet_at_one_port(self, hosts):
        for uuid in ("alpha-1", "beta-1"):
            name = uuid.partition("-")[0]
            inventory = Host.objects.get(name=name).inventory
            inventory["gpus"].append({**inventory["gpus"][0], "uuid": uuid})
            inventory["group_ports"] = [29500, 29501]
            Host.objects.filter(name=name).update(inventory=inventory)
        need = {"total_bytes": 70 * GIB, "gpus": 2, "hosts": 2}
        for name in ("one", "two"):
            make_deployment(name=name).revisions.update(need=need, device="cuda")

        reconcile()

        assert set(Replica.objects.values_list("master_port", flat=True)) == {29500, 29501}


class TestReports:
    def test_the_replica_is_as_ready_as_its_head(self, deployment, hosts):
        reconcile()
        replica = Replica.objects.get()

        tell(hosts[1], replica, ObservedPhase.READY)
        replica.refresh_from_db()
        assert replica.phase == P.PENDING
        tell(hosts[0], replica, ObservedPhase.READY)

        replica.refresh_from_db()
        assert replica.phase == P.READY
        assert set(replica.members.values_list("phase", flat=True)) == {P.READY}

    def test_a_group_that_is_not_ordered_gone_is_not_stopped_by_an_old_word(
        self, deployment, hosts
    ):
        replica = start(hosts)

        for host in hosts:
            tell(host, replica, ObservedPhase.STOPPED)
        reconcile()

        assert Replica.objects.get().phase == P.READY


class TestEnd:
    def test_a_member_that_fails_takes_all_down_and_another_group_is_placed(
        self, deployment, hosts
    ):
        first = start(hosts)
        tell(hosts[1], first, ObservedPhase.FAILED, reason="killed", code="exit", log_tail=("end",))

        reconcile()

        first.refresh_from_db()
        successor = Replica.objects.exclude(pk=first.pk).get()
        assert (first.phase, first.desired) == (P.FAILED, DesiredReplica.ABSENT)
        assert first.reason == "rank 1 on beta failed: killed"
        assert {order_for(host).desired for host in hosts} == {DesiredPhase.ABSENT}
        assert (successor.failures, successor.host) == (1, None)
        assert successor.retry_at == NOW + timedelta(seconds=5)
        assert (successor.code, successor.log_tail) == ("exit", ["end"])

        tell(hosts[0], first, ObservedPhase.STOPPED)
        reconcile()
        assert Booking.objects.count() == 2  # until the last one is gone
        tell(hosts[1], first, ObservedPhase.STOPPED)
        reconcile()
        first.refresh_from_db()
        assert (first.phase, Booking.objects.count()) == (P.STOPPED, 0)

        reconcile(NOW + timedelta(seconds=5))
        successor.refresh_from_db()
        assert successor.host is not None
        assert set(Booking.objects.values_list("replica", flat=True)) == {successor.pk}
        assert successor.members.count() == 2

    def test_the_rest_can_be_cut_short_by_hand(self, deployment, hosts):
        first = start(hosts)
        tell(hosts[1], first, ObservedPhase.FAILED, reason="killed")
        reconcile()

        actions.start(deployment, actor="ada", now=NOW)

        successor = Replica.objects.exclude(pk=first.pk).get()
        assert (successor.failures, successor.retry_at) == (0, NOW)

    def test_a_word_of_the_head_from_before_does_not_bring_it_back(self, deployment, hosts):
        first = start(hosts)
        tell(hosts[1], first, ObservedPhase.FAILED, reason="killed")
        reconcile()

        tell(hosts[0], first, ObservedPhase.READY)

        first.refresh_from_db()
        assert first.phase == P.FAILED

    def test_a_head_that_fails_is_counted_once(self, deployment, hosts):
        first = start(hosts)
        tell(hosts[0], first, ObservedPhase.FAILED, reason="out of memory")

        reconcile()

        successor = Replica.objects.exclude(pk=first.pk).get()
        assert (successor.failures, successor.reason) == (1, "out of memory")

    def test_a_lost_host_keeps_nothing_of_the_others_booked(self, deployment, hosts):
        first = start(hosts)
        Host.objects.filter(name="beta").update(state=HostState.LOST)
        reconcile()
        first.refresh_from_db()
        tell(hosts[0], first, ObservedPhase.STOPPED)
        reconcile()

        assert Booking.objects.count() == 0
        first.refresh_from_db()
        assert first.phase == P.FAILED  # its other host may still run it

        Host.objects.filter(name="beta").update(state=HostState.READY)
        assert order_for(hosts[1]).desired is DesiredPhase.ABSENT
        tell(hosts[1], first, ObservedPhase.STOPPED)
        reconcile()
        first.refresh_from_db()
        assert first.phase == P.STOPPED

    def test_a_deployment_that_is_stopped_drains_the_group_and_ends_it_on_all_hosts(
        self, deployment, hosts
    ):
        first = start(hosts)
        Deployment.objects.update(desired="stopped")

        reconcile()
        first.refresh_from_db()
        assert (first.phase, order_for(hosts[1]).desired) == (P.DRAINING, DesiredPhase.RUNNING)
        reconcile(NOW + timedelta(seconds=60))
        assert {order_for(host).desired for host in hosts} == {DesiredPhase.ABSENT}
        for host in hosts:
            tell(host, first, ObservedPhase.STOPPED, generation=first.generation + 1)
        reconcile(NOW + timedelta(seconds=61))

        first.refresh_from_db()
        assert first.phase == P.STOPPED
        assert not Member.objects.exclude(phase=P.STOPPED).exists()
