"""Starts, the warm pool and shared slots over REST: roles, shapes, and what is refused."""

from datetime import timedelta

import pytest

from agents.wire import GpuInfo, Rung
from apps.accounts.models import AuditEntry
from apps.accounts.states import Role
from apps.deployments.models import Decision, Start, WarmPool
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.deployments.warmth_api import (
    ClaimOutput,
    HitRateOutput,
    PoolOutput,
    SharedPoolOutput,
    SlotOutput,
    StageOutput,
    StartOutput,
)
from apps.lib import clock
from tests.apps.accounts.people import make_client
from tests.apps.deployments.factories import GIB, NOW, make_deployment, make_host, make_replica

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

STARTS = "/api/v1/deployments/chat/starts/"
POOL = "/api/v1/pool/"
H100 = GpuInfo(
    uuid="GPU-0", index=0, name="NVIDIA H100 80GB HBM3", memory_total_bytes=80 * GIB,
    memory_used_bytes=0,
)  # fmt: skip
MODEL = "smollm2-135m-instruct:bf16"


@pytest.fixture
def api():
    return make_client(Role.OPERATOR)


def make_start(deployment, seconds: float, *, rung: Rung = Rung.CACHED, failure: str = "") -> Start:
    ended = clock.now() - timedelta(minutes=1)
    return Start.objects.create(
        deployment=deployment, replica="0" * 8 + "-0000-4000-8000-" + "0" * 12, host="alpha",
        model=MODEL, engine="vllm", engine_version="0.32.0", rung=rung, seconds=seconds,
        began_at=ended - timedelta(seconds=seconds), ended_at=ended, failure=failure,
        stages=[{"stage": "load", "seconds": seconds, "bytes": 7}],
    )  # fmt: skip


class TestStarts:
    def test_answer_what_the_schema_says_newest_first(self, api):
        chat = make_deployment()
        make_start(chat, 40.0, rung=Rung.COLD)
        make_start(chat, 3.0)

        newest, oldest = api.get(STARTS).json()["results"]

        assert newest.keys() == StartOutput().fields.keys()
        assert newest["stages"][0].keys() == StageOutput().fields.keys()
        assert (newest["rung"], newest["seconds"]) == ("cached", 3.0)
        assert (oldest["rung"], oldest["seconds"]) == ("cold", 40.0)

    def test_each_stage_stands_beside_the_median_of_the_same_rung_without_failures(self, api):
        chat = make_deployment()
        for seconds in (2.0, 4.0, 9.0):
            make_start(chat, seconds)
        make_start(chat, 500.0, rung=Rung.COLD)
        failed = make_start(chat, 90.0, failure="oom")

        row = api.get(STARTS).json()["results"][0]

        assert (row["id"], row["failure"]) == (failed.pk, "oom")
        assert row["stages"] == [
            {"stage": "load", "seconds": 90.0, "bytes": 7, "median_seconds": 4.0}
        ]

    def test_those_of_others_are_not_shown(self, api):
        make_deployment()
        make_start(make_deployment(name="other"), 1.0)

        assert api.get(STARTS).json()["count"] == 0

    def test_of_nobody_are_404(self, api):
        assert api.get(STARTS).status_code == 404

    def test_a_viewer_may_read_them_and_a_stranger_not(self, client):
        make_deployment()

        assert make_client(Role.VIEWER).get(STARTS).status_code == 200
        assert client.get(STARTS).status_code == 401


class TestPool:
    @pytest.fixture
    def sleeper(self):
        host = make_host(gpus=(H100,), price_per_hour_usd=4)
        return make_replica(
            deployment=make_deployment(), host=host, phase=ReplicaPhase.ASLEEP,
            desired=DesiredReplica.ASLEEP, gpu_uuids=["GPU-0"], nap={"residual_bytes": 8 * GIB},
            reason="sleeps at level 1",
        )  # fmt: skip

    def test_an_empty_one_answers_what_the_schema_says(self, api):
        body = api.get(POOL).json()

        assert body.keys() == PoolOutput().fields.keys()
        assert body["hit_rate"].keys() == HitRateOutput().fields.keys()
        assert (body["slots"], body["claims"], body["cost_per_hour_usd"]) == ([], [], 0)
        assert body["hit_rate"]["asleep_ratio"] is None

    def test_a_sleeper_is_shown_with_what_it_holds_and_what_that_costs(self, api, sleeper):
        body = api.get(POOL).json()

        [slot] = body["slots"]
        assert slot.keys() == SlotOutput().fields.keys()
        assert (slot["deployment"], slot["host"], slot["phase"]) == ("chat", "alpha", "asleep")
        assert slot["residual_bytes"] == 8 * GIB
        # A tenth of the host's one GPU at 4 dollars an hour.
        assert slot["cost_per_hour_usd"] == pytest.approx(0.4)
        assert body["cost_per_hour_usd"] == pytest.approx(0.4)

    def test_a_claim_and_the_share_of_the_days_starts_that_were_woken(self, api, sleeper):
        chat = sleeper.deployment
        make_start(chat, 0.8, rung=Rung.ASLEEP)
        make_start(chat, 30.0, rung=Rung.COLD)
        make_start(chat, 1.0, rung=Rung.ASLEEP, failure="wake_failed")
        Decision.objects.create(
            deployment=chat, created_at=NOW, kind="ladder", reason="wakes a sleeper",
            inputs={"replica": str(sleeper.pk), "seconds": 0.8},
        )  # fmt: skip

        body = api.get(POOL).json()

        [claim] = body["claims"]
        assert claim.keys() == ClaimOutput().fields.keys()
        assert (claim["replica"], claim["seconds"]) == (str(sleeper.pk), 0.8)
        assert (body["hit_rate"]["starts"], body["hit_rate"]["asleep_ratio"]) == (2, 0.5)

    def test_a_viewer_may_read_it_and_a_stranger_not(self, client):
        assert make_client(Role.VIEWER).get(POOL).status_code == 200
        assert client.get(POOL).status_code == 401


class TestSlots:
    def test_are_set_and_told(self, api):
        answer = api.put(f"{POOL}cpu/", {"slots": 2}, format="json")

        assert answer.status_code == 200, answer.content
        assert answer.json().keys() == SharedPoolOutput().fields.keys()
        assert WarmPool.objects.get(gpu_kind="cpu").slots == 2
        [shared] = api.get(POOL).json()["shared"]
        assert (shared["gpu_kind"], shared["slots"]) == ("cpu", 2)
        assert AuditEntry.objects.filter(action="pool.slots", target="cpu").exists()

    def test_a_viewer_may_not(self):
        answer = make_client(Role.VIEWER).put(f"{POOL}cpu/", {"slots": 2}, format="json")

        assert answer.status_code == 403
        assert not WarmPool.objects.exists()

    @pytest.mark.parametrize(
        ("kind", "body", "field"),
        [
            ("cpu", {"slots": -1}, "slots"),
            ("cpu", {"slots": 1001}, "slots"),
            ("cpu", {}, "slots"),
            ("cpu", {"slots": 1, "size": 2}, "size"),
            ("b200", {"slots": 1}, "gpu_kind"),
        ],
        ids=["below 0", "too many", "none", "unknown field", "a GPU that no host has"],
    )
    def test_what_cannot_be_is_refused_by_its_field(self, api, kind, body, field):
        answer = api.put(f"{POOL}{kind}/", body, format="json")

        assert answer.status_code == 400
        body = answer.json()
        named = [error["field"] for error in body.get("errors", [])] or [body["field"]]
        assert named == [field]
