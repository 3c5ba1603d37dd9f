"""Replicas, revisions, events, decisions and logs over REST."""

import threading
import time

import msgspec
import pytest
from django.db import connection

from agents.wire import ReadReply
from apps.accounts.states import Role
from apps.deployments import actions
from apps.deployments.models import Decision, ReadRequest
from apps.deployments.observed import record_event
from apps.deployments.rollout_shapes import RevisionOutput
from apps.deployments.serializers import LogOutput, ReplicaOutput
from apps.deployments.states import ReplicaPhase
from apps.fleet.states import HostState
from tests.apps.accounts.people import make_client
from tests.apps.deployments.factories import (
    NOW,
    make_deployment,
    make_host,
    make_replica,
    make_revision,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

URL = "/api/v1/deployments/chat/"


@pytest.fixture
def api():
    return make_client(Role.OPERATOR)


class TestReplicas:
    def test_answer_what_the_schema_says(self, api):
        make_replica(deployment=make_deployment(), host=make_host())

        [row] = api.get(f"{URL}replicas/").json()["results"]

        assert row.keys() == ReplicaOutput().fields.keys()
        assert (row["phase"], row["host"], row["revision"]) == ("ready", "alpha", 1)

    def test_show_the_last_lines_of_one_that_failed(self, api):
        make_replica(
            deployment=make_deployment(),
            phase=ReplicaPhase.FAILED,
            log_tail=["boom"],
            exit_code=3,
            code="exit",
        )

        [row] = api.get(f"{URL}replicas/").json()["results"]

        assert (row["log_tail"], row["exit_code"], row["code"]) == (["boom"], 3, "exit")

    def test_hide_those_that_are_gone_unless_asked(self, api):
        make_replica(deployment=make_deployment(), phase=ReplicaPhase.STOPPED)

        assert api.get(f"{URL}replicas/").json()["count"] == 0
        assert api.get(f"{URL}replicas/", {"stopped": "true"}).json()["count"] == 1

    def test_are_restarted_one_at_a_time(self, api):
        replica = make_replica(deployment=make_deployment(), host=make_host())

        answer = api.post(f"{URL}replicas/{replica.pk}/restart/")

        assert (answer.status_code, answer.json()["phase"]) == (202, "draining")
        assert answer.json()["desired"] == "drained"

    def test_that_are_unknown_answer_404(self, api):
        make_deployment()

        assert api.post(f"{URL}replicas/nope/restart/").status_code == 404


class TestRevisions:
    def test_are_listed_with_the_one_that_serves(self, api):
        deployment = make_deployment()
        make_replica(deployment=deployment, host=make_host())
        make_revision(deployment=deployment, number=2)

        rows = api.get(f"{URL}revisions/").json()["results"]

        assert [(row["number"], row["live"]) for row in rows] == [(2, False), (1, True)]
        assert rows[0].keys() == RevisionOutput().fields.keys()


class TestEvents:
    def make(self, kind: str, deployment: str = "chat", severity: str = "info") -> None:
        record_event(
            at=NOW, kind=kind, message=kind, actor="ada", deployment=deployment, severity=severity
        )

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({}, ["replica.failed", "deployment.created"]),
            ({"kind": "replica"}, ["replica.failed"]),
            ({"severity": "error"}, ["replica.failed"]),
        ],
        ids=str,
    )
    def test_of_one_deployment_newest_first(self, api, query, expected):
        make_deployment()
        self.make("deployment.created")
        self.make("replica.failed", severity="error")
        self.make("replica.ready", deployment="other")

        rows = api.get(f"{URL}events/", query).json()["results"]

        assert [row["kind"] for row in rows] == expected

    def test_of_the_whole_fleet(self, api):
        self.make("deployment.created")
        self.make("replica.ready", deployment="other")

        assert api.get("/api/v1/events/").json()["count"] == 2

    def test_refuse_a_severity_that_is_none(self, api):
        assert api.get("/api/v1/events/", {"severity": "loud"}).status_code == 400


class TestDecisions:
    def test_say_why_with_their_inputs(self, api):
        Decision.objects.create(
            deployment=make_deployment(),
            created_at=NOW,
            kind="placement",
            reason="fits",
            inputs={"a": 1},
        )

        [row] = api.get(f"{URL}decisions/").json()["results"]

        assert {"kind": "placement", "reason": "fits", "inputs": {"a": 1}}.items() <= row.items()
        assert "created_at" in row


def answer_next_read(reply: dict, deadline_seconds: float = 10.0) -> None:
    """Answer the first read that is asked, as the agent's endpoint does."""
    deadline = time.monotonic() + deadline_seconds
    pause = threading.Event()
    while time.monotonic() < deadline:
        request = ReadRequest.objects.first()
        if request is not None:
            answer = ReadReply(request_id=str(request.pk), **reply)
            ReadRequest.objects.update(answer=msgspec.to_builtins(answer))
            break
        pause.wait(0.01)
    connection.close()


class TestLogs:
    def test_of_a_replica_that_failed_were_kept(self, api):
        make_replica(
            deployment=make_deployment(),
            host=make_host(),
            phase=ReplicaPhase.FAILED,
            log_tail=["one", "two"],
        )

        body = api.get(f"{URL}logs/", {"lines": 1}).json()

        assert (body["lines"], body["read_from"]) == (["two"], "last_report")

    def test_of_a_silent_host_are_not_waited_for(self, api):
        make_replica(deployment=make_deployment(), host=make_host(state=HostState.UNKNOWN))

        answer = api.get(f"{URL}logs/")

        assert (answer.status_code, answer.json()["code"]) == (504, "host_silent")

    def test_of_a_host_that_never_answers_end_with_the_deadline(self, api, monkeypatch):
        monkeypatch.setattr(actions, "READ_SECONDS", 0.1)
        make_replica(deployment=make_deployment(), host=make_host())

        assert api.get(f"{URL}logs/").status_code == 504

    def test_of_a_replica_without_a_host_are_refused(self, api):
        make_replica(deployment=make_deployment(), phase=ReplicaPhase.PENDING)

        assert api.get(f"{URL}logs/").json()["code"] == "not_placed"

    def test_without_any_replica_answer_404(self, api):
        make_deployment()

        assert api.get(f"{URL}logs/").status_code == 404

    @pytest.mark.parametrize("lines", ["0", "2001", "all"])
    def test_of_too_many_lines_are_refused(self, api, lines):
        make_deployment()

        assert api.get(f"{URL}logs/", {"lines": lines}).json()["errors"][0]["field"] == "lines"


@pytest.mark.django_db(transaction=True)
class TestLogsOfAHost:
    @pytest.mark.parametrize(
        ("reply", "status"),
        [({"lines": ("a", "b")}, 200), ({"error": "no such replica"}, 502)],
        ids=["read", "unreadable"],
    )
    def test_are_read_there_now(self, api, reply, status):
        replica = make_replica(deployment=make_deployment(), host=make_host())
        agent = threading.Thread(target=answer_next_read, args=(reply,))
        agent.start()

        answer = api.get(f"{URL}logs/", {"replica": str(replica.pk)[:8], "lines": 2})

        agent.join(timeout=10)
        body = answer.json()
        assert answer.status_code == status
        if status == 200:
            assert body == {"replica": str(replica.pk), "lines": ["a", "b"], "read_from": "host"}
            assert body.keys() == LogOutput().fields.keys()
        else:
            assert body["detail"] == "no such replica"
