"""Recorded traffic against another policy: what comes back, and what is refused."""

from datetime import timedelta

import pytest

from apps.accounts.states import Role
from apps.deployments.models import ScalingPolicy
from apps.deployments.states import ReplicaPhase
from apps.lib import clock
from apps.traffic.models import UsageRow
from gateway.wire import Outcome
from tests.apps.accounts.people import make_client
from tests.apps.deployments.factories import make_deployment, make_host, make_replica

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

URL = "/api/v1/deployments/chat/what-if/"


@pytest.fixture
def api():
    return make_client(Role.OPERATOR)


def row_of(number, *, at, replica) -> UsageRow:
    """A request of four seconds that waited for nothing."""
    return UsageRow(
        id=f"request-{number}",
        gateway="g",
        deployment="chat",
        replica=replica,
        model="chat",
        path="/v1/chat/completions",
        stream=True,
        admitted_at=at,
        finished_at=at + timedelta(seconds=4),
        queue_seconds=0.0,
        ttft_seconds=0.1,
        total_seconds=4.0,
        prompt_tokens=100,
        output_tokens=200,
        estimated=False,
        outcome=Outcome.COMPLETED,
        status=200,
        bytes_in=0,
        bytes_out=0,
        retries=0,
        cost_usd=0,
        created_at=at,
    )


@pytest.fixture
def traffic(db):
    """Two hours of a request every 30 s, with a burst of 300 in the middle."""
    row = make_deployment()
    ScalingPolicy.objects.filter(pk=row.pk).update(max_replicas=8, target_concurrency=4)
    revision = row.revisions.get()
    revision.spec = {**revision.spec, "max_in_flight": 4}
    revision.save()
    host = make_host(price_per_hour_usd=2)
    replica = make_replica(deployment=row, host=host, phase=ReplicaPhase.READY)
    begin = clock.now() - timedelta(hours=2)
    times = [begin + timedelta(seconds=30 * n) for n in range(230)]
    times += [begin + timedelta(seconds=3600 + n * 0.2) for n in range(300)]
    UsageRow.objects.bulk_create(
        row_of(number, at=at, replica=replica.pk) for number, at in enumerate(times)
    )
    return row


def ask(api, **scaling):
    return api.post(URL, {"scaling": scaling}, format="json")


class TestCompare:
    def test_more_kept_ready_waits_less_and_costs_more(self, api, traffic):
        answer = ask(api, min_replicas=6)

        body = answer.json()
        assert answer.status_code == 200, body
        assert body["requests"] == body["old"]["requests"] == body["new"]["requests"] == 530
        assert body["new"]["wait_p95_seconds"] < body["old"]["wait_p95_seconds"]
        assert body["new"]["late_ratio"] < body["old"]["late_ratio"]
        assert body["new"]["replica_hours"] > body["old"]["replica_hours"]
        assert body["new"]["cost_usd_a_day"] > body["old"]["cost_usd_a_day"] > 0
        assert body["old"]["starts"] > 0
        assert body["estimated"] is True

    def test_the_same_policy_gives_the_same(self, api, traffic):
        body = ask(api).json()

        assert body["old"] == body["new"]

    def test_zero_replicas_shows_cold_starts(self, api, traffic):
        ScalingPolicy.objects.update(scale_to_zero_after_seconds=20)

        body = ask(api, min_replicas=0, scale_to_zero_after_seconds=20).json()

        assert body["new"]["waited_for_start"] > 10
        assert body["new"]["replica_hours"] < body["old"]["replica_hours"]

    def test_changes_nothing(self, api, traffic):
        before = ScalingPolicy.objects.values().get()

        ask(api, min_replicas=6)

        assert ScalingPolicy.objects.values().get() == before


class TestRefused:
    def test_a_wish_that_cannot_be_names_its_field(self, api, traffic):
        answer = ask(api, min_replicas=9, max_replicas=2)

        assert (answer.status_code, answer.json()["field"]) == (400, "scaling.min_replicas")

    def test_no_traffic_is_said(self, api):
        make_deployment()

        answer = ask(api, min_replicas=2)

        assert (answer.status_code, answer.json()["code"]) == (409, "no_traffic")
