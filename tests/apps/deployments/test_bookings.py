"""Bookings: no device gives more than it has, no GPU is given twice."""

import threading

import pytest
from django.db import IntegrityError, connections, transaction

from agents.wire import GpuInfo
from apps.deployments import bookings, observed
from apps.deployments.models import Booking, Replica
from apps.deployments.room import reservations
from apps.deployments.states import ReplicaPhase
from apps.fleet.models import Capacity
from tests.apps.deployments.factories import (
    GIB,
    NOW,
    make_deployment,
    make_host,
)


def h100(number: int) -> GpuInfo:
    return GpuInfo(
        uuid=f"GPU-{number}",
        index=number,
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=0,
    )


@pytest.fixture
def machine(db):
    return make_host(gpus=(h100(0), h100(1)))


@pytest.fixture
def replica(machine):
    return new_replica()


def new_replica() -> Replica:
    name = f"chat-{Replica.objects.count()}"
    deployment = make_deployment(name=name)
    return Replica.objects.create(
        deployment=deployment,
        revision=deployment.revisions.get(),
        created_at=NOW,
        phase_at=NOW,
        memory_bytes=70 * GIB,
    )


def book(replica, machine, *uuids: str, gib: float = 70, whole: bool = True) -> None:
    bookings.book(
        replica,
        host_id=machine.pk,
        gpu_uuids=uuids,
        memory_bytes=int(gib * GIB),
        whole=whole,
    )


def booked(uuid: str) -> int:
    return Capacity.objects.get(gpu_uuid=uuid).booked_bytes // GIB


class TestBook:
    def test_books_the_bytes_of_each_gpu(self, replica, machine):
        book(replica, machine, "GPU-0", "GPU-1")

        assert [booked("GPU-0"), booked("GPU-1")] == [70, 70]
        assert reservations()[machine.pk].of("GPU-1").whole

    def test_refuses_a_gpu_that_is_another_replicas(self, replica, machine):
        book(replica, machine, "GPU-0", gib=10)

        with pytest.raises(bookings.NotBooked, match="GPU-0 of alpha is another replica's"):
            book(new_replica(), machine, "GPU-0", gib=10)

    def test_refuses_a_gpu_that_has_vanished_and_books_nothing(self, replica, machine):
        with pytest.raises(bookings.NotBooked, match="GPU GPU-9 is gone from alpha"):
            book(replica, machine, "GPU-0", "GPU-9")

        assert not Booking.objects.exists()

    def test_lets_fractions_share_a_gpu_until_it_is_full(self, replica, machine):
        book(replica, machine, "GPU-0", gib=40, whole=False)
        book(new_replica(), machine, "GPU-0", gib=40, whole=False)

        with pytest.raises(bookings.NotBooked, match="has no 1"):
            book(new_replica(), machine, "GPU-0", gib=1, whole=False)

    def test_refuses_memory_that_is_booked(self, replica, machine):
        book(replica, machine, gib=10)

        with pytest.raises(bookings.NotBooked, match="the memory of alpha has no 6"):
            book(new_replica(), machine, gib=6)

    def test_gives_back_what_a_stopped_replica_had(self, replica, machine):
        book(replica, machine, "GPU-0")

        observed.move_replica(replica, ReplicaPhase.STOPPED, now=NOW, reason="", actor="test")

        assert booked("GPU-0") == 0
        assert not Booking.objects.exists()


class TestSleep:
    def test_a_sleeper_keeps_its_residual_bytes_and_leaves_the_rest(self, replica, machine):
        book(replica, machine, "GPU-0")
        bookings.keep_residual(replica, memory_bytes=2 * GIB)

        book(new_replica(), machine, "GPU-0", gib=78)

        assert booked("GPU-0") == 80

    def test_is_not_woken_while_another_has_its_gpu(self, replica, machine):
        book(replica, machine, "GPU-0")
        bookings.keep_residual(replica, memory_bytes=2 * GIB)
        other = new_replica()
        book(other, machine, "GPU-0", gib=20)

        with pytest.raises(bookings.NotBooked):
            bookings.book_awake(replica)

        bookings.release(other)
        bookings.book_awake(replica)
        assert booked("GPU-0") == 70


class TestConstraints:
    @pytest.mark.parametrize(
        "sums",
        [
            {"booked_bytes": 81 * GIB},
            {"whole_bookings": 2},
            {"whole_bookings": 1, "shared_bookings": 1},
        ],
        ids=["more than there is", "given twice", "given whole and in part"],
    )
    def test_the_database_refuses_a_device_that_is(self, machine, sums):
        capacity = Capacity.objects.create(host=machine, gpu_uuid="GPU-0", total_bytes=80 * GIB)

        with pytest.raises(IntegrityError), transaction.atomic():
            Capacity.objects.filter(pk=capacity.pk).update(**sums)


@pytest.mark.django_db(transaction=True)
class TestRace:
    def test_of_many_that_book_one_gpu_at_once_one_gets_it(self):
        machine = make_host(gpus=(h100(0), h100(1)))
        rivals = [new_replica() for _ in range(8)]
        start = threading.Barrier(len(rivals))
        outcomes: list[str] = []

        def rival(replica: Replica) -> None:
            start.wait(10)
            try:
                book(replica, machine, "GPU-0")
                outcomes.append("booked")
            except bookings.NotBooked:
                outcomes.append("refused")
            finally:
                connections.close_all()

        threads = [threading.Thread(target=rival, args=(replica,)) for replica in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert sorted(outcomes) == ["booked", *["refused"] * 7]
        assert Booking.objects.count() == 1
