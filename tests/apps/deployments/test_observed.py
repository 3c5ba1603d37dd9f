"""What agents report becomes rows: guarded, legal, and never from the past."""

import itertools

import msgspec
import pytest

from agents.wire import Endpoint, ObservedPhase, Progress
from apps.deployments import observed
from apps.deployments.models import Event, Replica
from apps.deployments.states import LEGAL_MOVES, DesiredReplica
from apps.deployments.states import ReplicaPhase as P
from tests.apps.deployments.factories import (
    NOW,
    make_deployment,
    make_host,
    make_replica,
    make_report,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


class TestPath:
    @pytest.mark.parametrize(
        ("old", "new", "way"),
        [
            (P.PENDING, P.STARTING, [P.STARTING]),
            (P.PENDING, P.READY, [P.STARTING, P.READY]),
            (P.READY, P.STOPPED, [P.DRAINING, P.STOPPED]),
            (P.READY, P.STARTING, [P.FAILED, P.PENDING, P.STARTING]),
            (P.LOST, P.READY, [P.READY]),
            (P.STOPPED, P.READY, []),
        ],
    )
    def test_is_the_shortest_legal_way(self, old, new, way):
        assert observed.path(old, new) == way

    @pytest.mark.parametrize("old", list(P))
    def test_uses_legal_edges_only(self, old):
        for new in P:
            way = [old, *observed.path(old, new)]
            assert all(b in LEGAL_MOVES[a] for a, b in itertools.pairwise(way))


class TestMoveReplica:
    def test_writes_one_event_with_the_seconds_of_the_phase_before(self):
        replica = make_replica(deployment=make_deployment(), phase=P.PENDING, host=make_host())

        observed.move_replica(replica, P.STARTING, now=NOW, reason="", actor="agent:alpha")

        event = Event.objects.get()
        assert event.kind == "replica.starting"
        assert event.data == {"from": "pending", "to": "starting", "seconds": 0.0}

    def test_refuses_an_edge_that_is_not_legal(self):
        replica = make_replica(deployment=make_deployment(), phase=P.PENDING)

        with pytest.raises(observed.IllegalMove, match="pending -> ready"):
            observed.move_replica(replica, P.READY, now=NOW, reason="", actor="x")

    def test_refuses_a_stale_copy(self):
        replica = make_replica(deployment=make_deployment(), phase=P.STARTING)
        stale = Replica.objects.get(pk=replica.pk)
        observed.move_replica(replica, P.READY, now=NOW, reason="", actor="x")

        with pytest.raises(observed.StaleReplica):
            observed.move_replica(stale, P.FAILED, now=NOW, reason="", actor="x")
        assert Event.objects.count() == 1


class TestRecordReports:
    @pytest.fixture
    def host(self):
        return make_host()

    def record(self, host, report):
        observed.record_reports(host, [report], NOW)
        return Replica.objects.get(pk=report.replica_id)

    def test_keeps_where_a_ready_replica_listens(self, host):
        replica = make_replica(deployment=make_deployment(), host=host, phase=P.STARTING)
        endpoint = Endpoint(address="unix:/run/e.sock", relay_url="http://h:1/r/x")

        row = self.record(host, make_report(replica, ObservedPhase.READY, endpoint=endpoint))

        assert (row.phase, row.endpoint["address"]) == (P.READY, "unix:/run/e.sock")
        assert row.ready_at == NOW

    def test_keeps_progress_while_it_comes_up_and_drops_it_after(self, host):
        replica = make_replica(deployment=make_deployment(), host=host, phase=P.PENDING)
        progress = Progress(stage="weights", done=3, total=9)

        row = self.record(host, make_report(replica, ObservedPhase.FETCHING, progress=progress))
        assert row.progress == {"stage": "weights", "done": 3, "total": 9}
        row = self.record(host, make_report(replica, ObservedPhase.READY))
        assert row.progress is None

    def test_keeps_why_it_failed_and_counts_the_failure(self, host):
        replica = make_replica(deployment=make_deployment(), host=host)
        report = make_report(
            replica,
            ObservedPhase.FAILED,
            reason="the engine exited with code 0",
            code="exit",
            exit_code=0,
            log_tail=tuple(f"line {n}" for n in range(80)),
        )

        row = self.record(host, report)

        assert (row.phase, row.exit_code, row.failures) == (P.FAILED, 0, 1)
        assert row.log_tail == [f"line {n}" for n in range(30, 80)]

    def test_counts_a_failure_once_however_often_it_is_told(self, host):
        replica = make_replica(deployment=make_deployment(), host=host)
        report = make_report(replica, ObservedPhase.FAILED, reason="x")

        self.record(host, report)

        assert self.record(host, report).failures == 1

    def test_ignores_a_report_of_an_older_generation(self, host):
        replica = make_replica(deployment=make_deployment(), host=host, generation=3)

        row = self.record(host, make_report(replica, ObservedPhase.FAILED, generation=2))

        assert row.phase == P.READY

    def test_does_not_take_a_draining_replica_back(self, host):
        replica = make_replica(deployment=make_deployment(), host=host, phase=P.DRAINING)

        assert self.record(host, make_report(replica, ObservedPhase.READY)).phase == P.DRAINING

    def test_a_stopped_report_counts_only_for_a_tombstone(self, host):
        deployment = make_deployment()
        wanted = make_replica(deployment=deployment, host=host)
        gone = make_replica(deployment=deployment, host=host, desired=DesiredReplica.ABSENT)

        assert self.record(host, make_report(wanted, ObservedPhase.STOPPED)).phase == P.READY
        assert self.record(host, make_report(gone, ObservedPhase.STOPPED)).phase == P.STOPPED

    def test_a_host_cannot_speak_of_another_hosts_replica(self, host):
        other = make_host(name="beta")
        replica = make_replica(deployment=make_deployment(), host=other)

        assert self.record(host, make_report(replica, ObservedPhase.FAILED)).phase == P.READY

    def test_a_report_of_no_replica_spoils_no_other(self, host):
        replica = make_replica(deployment=make_deployment(), host=host)
        odd = msgspec.structs.replace(
            make_report(replica, ObservedPhase.READY), replica_id="x" * 36
        )

        observed.record_reports(host, [odd, make_report(replica, ObservedPhase.FAILED)], NOW)

        replica.refresh_from_db()
        assert replica.phase == P.FAILED

    def test_a_replica_of_a_lost_host_serves_again_when_the_host_says_so(self, host):
        replica = make_replica(deployment=make_deployment(), host=host, phase=P.LOST)

        assert self.record(host, make_report(replica, ObservedPhase.READY)).phase == P.READY
