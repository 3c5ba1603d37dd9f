"""Deployments over REST: orders, changes, and what is refused with which words."""

import pytest

from agents.wire import GpuInfo
from apps.accounts.states import Role
from apps.deployments.models import Deployment, Event, Revision, ScalerState
from apps.deployments.serializers import DeploymentOutput, PlanOutput
from apps.deployments.states import DeploymentPhase, ReplicaPhase
from tests.apps.accounts.people import make_client
from tests.apps.deployments.factories import (
    NOW,
    make_deployment,
    make_host,
    make_replica,
    make_revision,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

URL = "/api/v1/deployments/"
SMOL = "smollm2-135m-instruct"


@pytest.fixture
def api():
    return make_client(Role.OPERATOR)


def order(api, **members):
    return api.post(URL, {"catalog": SMOL, **members}, format="json")


class TestOrder:
    def test_needs_a_catalog_slug_and_nothing_else(self, api):
        make_host()

        answer = order(api)

        assert answer.status_code == 201
        assert answer["Location"] == f"{URL}{SMOL}/"
        body = answer.json()
        assert (body["name"], body["phase"], body["wanted_replicas"]) == (SMOL, "starting", 1)
        assert body["created_by"] == "operator"

    def test_takes_every_member_of_the_contract(self, api):
        make_host()

        answer = order(
            api,
            name="mine",
            engine={"max_model_len": 1024},
            scaling={"min_replicas": 2, "max_replicas": 3, "target_concurrency": 4},
            resources={"memory_bytes": 3 * 1024**3},
            placement={"host": "alpha", "labels": {}, "device": "cpu", "wait": False},
        )

        body = answer.json()
        assert answer.status_code == 201
        assert body["engine"] == {"kind": "vllm", "max_model_len": 1024}
        assert body["scaling"]["min_replicas"] == 2
        assert body["scaling"]["max_replicas"] == 3
        assert body["scaling"]["target_concurrency"] == 4
        assert body["placement"]["host"] == "alpha"

    def test_numbers_names_that_it_chose_itself(self, api):
        make_host()

        assert [order(api).json()["name"] for _ in range(2)] == [SMOL, f"{SMOL}-2"]

    def test_sent_twice_with_one_key_makes_one_deployment(self, api):
        make_host()
        key = {"Idempotency-Key": "order-1"}

        answers = [api.post(URL, {"catalog": SMOL}, format="json", headers=key) for _ in range(2)]

        assert [answer.json()["name"] for answer in answers] == [SMOL, SMOL]
        assert answers[1]["Location"] == answers[0]["Location"]
        assert Deployment.objects.count() == 1

    def test_can_wait_for_room(self, api):
        answer = order(api, placement={"wait": True})

        assert answer.status_code == 201


class TestBadOrder:
    @pytest.mark.parametrize(
        ("members", "field"),
        [
            ({"catalog": "gpt-9"}, "catalog"),
            ({"catalog": None}, "catalog"),
            ({"variant": "int3"}, "variant"),
            ({"name": "Not A Name"}, "name"),
            ({"name": "x" * 64}, "name"),
            ({"name": "plan"}, "name"),
            ({"name": "naïve"}, "name"),
            ({"engine": {"max_model_len": "many"}}, "engine.max_model_len"),
            ({"engine": {"no_such": 1}}, "engine.no_such"),
            ({"engine": {"kind": "llama"}}, "engine.kind"),
            ({"engine": []}, "engine"),
            ({"scaling": {"min_replicas": -1}}, "scaling.min_replicas"),
            ({"scaling": {"min_replicas": 3, "max_replicas": 2}}, "scaling.min_replicas"),
            ({"scaling": {"min_replicas": "two"}}, "scaling.min_replicas"),
            ({"scaling": {"replicas": 1}}, "scaling.replicas"),
            ({"resources": {"memory_bytes": 0}}, "resources.memory_bytes"),
            ({"placement": {"device": "tpu"}}, "placement.device"),
            ({"placement": {"wait": "maybe"}}, "placement.wait"),
            ({"nmae": "mine"}, "nmae"),
        ],
        ids=lambda value: str(value)[:60],
    )
    def test_is_refused_by_field_and_leaves_nothing(self, api, members, field):
        make_host()

        answer = order(api, **members)

        assert answer.status_code == 400
        assert answer["Content-Type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"] == field
        assert not Deployment.objects.exists()
        assert not Event.objects.exists()

    def test_hints_at_the_member_that_was_meant(self, api):
        assert "did you mean name?" in order(api, nmae="mine").json()["detail"]

    @pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"", b"\xff"], ids=repr)
    def test_that_is_no_object_is_refused(self, api, body):
        answer = api.generic("POST", URL, body, content_type="application/json")

        assert answer.status_code == 400
        assert answer["Content-Type"] == "application/problem+json"

    def test_in_another_format_is_refused(self, api):
        answer = api.generic("POST", URL, b"catalog=x", content_type="text/plain")

        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")

    def test_under_a_name_that_is_taken_is_a_conflict(self, api):
        make_host()
        order(api, name="mine")

        answer = order(api, name="mine")

        assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")
        assert answer.json()["field"] == "name"

    def test_that_fits_nowhere_says_what_is_missing(self, api):
        make_host(memory_gib=1)

        answer = order(api)

        body = answer.json()
        assert (answer.status_code, body["code"]) == (422, "does_not_fit")
        assert body["missing_bytes"] > 0
        assert body["reasons"][0].startswith("alpha: ")
        assert not Deployment.objects.exists()


class TestList:
    def test_answers_what_the_schema_says(self, api):
        make_replica(deployment=make_deployment(), host=make_host(), phase=ReplicaPhase.STARTING)

        [row] = api.get(URL).json()["results"]

        fields = DeploymentOutput().fields
        assert row.keys() == fields.keys()
        assert row["progress"].keys() == fields["progress"].fields.keys()
        assert row["live"].keys() == fields["live"].fields.keys()
        assert row["scaling"].keys() == fields["scaling"].fields.keys()

    def test_costs_at_most_eight_queries_for_two_hundred(self, api, django_assert_max_num_queries):
        host = make_host()
        for number in range(200):
            make_replica(deployment=make_deployment(name=f"chat-{number}"), host=host)

        with django_assert_max_num_queries(8):
            rows = api.get(URL, {"page_size": 500}).json()["results"]

        assert len(rows) == 200

    def test_costs_no_more_while_all_start(self, api, django_assert_max_num_queries):
        for number in range(9):
            make_replica(
                deployment=make_deployment(name=f"chat-{number}"),
                host=make_host(name=f"host-{number}"),
                phase=ReplicaPhase.STARTING,
                progress={"stage": "load"},
            )

        with django_assert_max_num_queries(8):
            rows = api.get(URL).json()["results"]

        assert all(row["progress"]["eta_seconds"] > 0 for row in rows)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"phase": "ready"}, ["b"]),
            ({"q": "A"}, ["a"]),
            ({"q": "smollm2"}, ["a", "b"]),
            ({"ordering": "-name"}, ["b", "a"]),
            ({"ordering": "phase"}, ["b", "a"]),
        ],
        ids=str,
    )
    def test_is_narrowed_and_ordered(self, api, query, expected):
        make_deployment(name="a")
        make_deployment(name="b", phase=DeploymentPhase.READY)

        assert [row["name"] for row in api.get(URL, query).json()["results"]] == expected

    @pytest.mark.parametrize("query", [{"phase": "fine"}, {"ordering": "secret"}], ids=str)
    def test_names_a_filter_that_is_wrong(self, api, query):
        answer = api.get(URL, query)

        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == next(iter(query))

    def test_goes_on_without_live_numbers(self, api, no_redis):
        make_deployment()

        [row] = api.get(URL).json()["results"]

        assert row["live"]["stale"]


class TestOne:
    def test_counts_what_serves_and_marks_the_simulation(self, api):
        row = make_deployment(wanted=2)
        make_replica(deployment=row, host=make_host())

        body = api.get(f"{URL}chat/").json()

        assert (body["ready_replicas"], body["wanted_replicas"]) == (1, 2)
        assert body["simulated"] is True
        assert body["endpoint"] == "http://127.0.0.1:8080/v1"

    def test_that_is_unknown_names_near_ones(self, api):
        make_deployment(name="chat")

        answer = api.get(f"{URL}chta/")

        assert answer.status_code == 404
        assert "chat" in answer.json()["detail"]


class TestChange:
    def test_of_the_scale_restarts_nothing(self, api):
        make_deployment()

        body = api.patch(f"{URL}chat/", {"scaling": {"min_replicas": 3}}, format="json").json()

        assert (body["wanted_replicas"], body["newest_revision"]) == (3, 1)

    def test_to_a_time_shorter_than_a_start_is_taken_with_a_warning(self, api):
        row = make_deployment()
        ScalerState.objects.create(
            deployment=row, wanted_replicas=1, start_seconds=41.6, updated_at=NOW
        )
        change = {"scaling": {"asleep_replicas": 1, "asleep_ttl_seconds": 30}}

        answer = api.patch(f"{URL}chat/", change, format="json")

        assert answer.status_code == 200
        [warning] = answer.json()["scaling"]["warnings"]
        assert "asleep_ttl_seconds: 30 s is shorter than a start, which takes 42 s" in warning

    def test_is_refused_when_somebody_changed_it_meanwhile(self, api):
        make_deployment()
        tag = api.get(f"{URL}chat/")["ETag"]
        change = {"scaling": {"min_replicas": 2}}

        first = api.patch(f"{URL}chat/", change, format="json", headers={"If-Match": tag})
        second = api.patch(f"{URL}chat/", change, format="json", headers={"If-Match": tag})

        assert (first.status_code, second.status_code) == (200, 412)
        assert second.json()["code"] == "changed_meanwhile"
        assert first["ETag"] != tag

    @pytest.mark.parametrize("tag", ['"abc"', "nonsense", '"-1"'])
    def test_is_refused_for_a_tag_that_cannot_match(self, api, tag):
        make_deployment()

        answer = api.patch(
            f"{URL}chat/",
            {"scaling": {"min_replicas": 2}},
            format="json",
            headers={"If-Match": tag},
        )

        assert answer.status_code == 412

    @pytest.mark.parametrize(
        ("change", "field"),
        [({"name": "new"}, "name"), ({"catalog": "x"}, "catalog"), ({}, "")],
        ids=str,
    )
    def test_of_what_cannot_change_is_refused(self, api, change, field):
        make_deployment()

        answer = api.patch(f"{URL}chat/", change, format="json")

        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == field


class TestVerbs:
    def test_stop_and_start(self, api):
        make_deployment()

        assert api.post(f"{URL}chat/stop/").json()["desired"] == "stopped"
        assert api.post(f"{URL}chat/start/").json()["desired"] == "running"

    def test_delete_is_accepted_and_drains_first(self, api):
        make_deployment()

        answer = api.delete(f"{URL}chat/")

        assert (answer.status_code, answer.json()["desired"]) == (202, "deleted")
        assert api.post(f"{URL}chat/start/").status_code == 409

    def test_rollback_makes_a_new_revision(self, api):
        make_revision(deployment=make_deployment(), number=2)

        body = api.post(f"{URL}chat/rollback/", {"revision": 1}, format="json").json()

        assert body["newest_revision"] == 3

    @pytest.mark.parametrize(
        ("body", "status"), [({"revision": 9}, 404), ({"revision": "x"}, 400), ({}, 409)], ids=str
    )
    def test_rollback_to_nowhere_is_refused(self, api, body, status):
        make_deployment()

        answer = api.post(f"{URL}chat/rollback/", body, format="json")

        assert answer.status_code == status
        assert "revision" in answer.json()["detail"]


def h100(uuid: str) -> GpuInfo:
    return GpuInfo(
        uuid=uuid,
        index=0,
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * 10**9,
        memory_used_bytes=0,
        compute_capability="9.0",
    )


class TestPlan:
    def plan(self, api, **members):
        return api.post(f"{URL}plan/", {"catalog": SMOL, **members}, format="json")

    def test_tells_the_fit_of_each_host_and_the_cost_and_writes_nothing(self, api):
        make_host(name="big", memory_gib=16)
        make_host(name="small", memory_gib=1)

        body = self.plan(api, scaling={"min_replicas": 2}).json()

        assert body.keys() == PlanOutput().fields.keys()
        answers = {row["host"]: row for row in body["hosts"]}
        assert (answers["big"]["fits"], answers["small"]["fits"]) == (True, False)
        assert answers["small"]["missing_bytes"] > 0
        assert body["cost_per_hour_usd"] == pytest.approx(2 * answers["big"]["cost_per_hour_usd"])
        assert 0 < answers["big"]["cost_per_hour_usd"] < 0.05
        assert not Deployment.objects.exists()

    def test_shows_where_placement_would_put_it_and_why_not_elsewhere(self, api):
        make_host(name="big", memory_gib=16)
        make_host(name="small", memory_gib=1)
        make_host(name="shut", cordoned=True)

        found = self.plan(api).json()["first_replica"]

        assert (found["host"], found["fitted"]) == ("big", 1)
        (candidate,) = found["candidates"]
        assert candidate["host"] == "big"
        assert candidate["score"] > 0
        assert {"spread", "cached", "price", "room"} <= candidate["terms"].keys()
        assert found["refused"]["shut"] == "is cordoned"
        assert found["refused"]["small"].startswith("needs ")

    def test_takes_several_hosts_together_when_none_holds_it_alone(self, api):
        for name in ("alpha", "beta"):
            make_host(name=name, gpus=tuple(h100(f"{name}-{n}") for n in range(2)))
        wish = {"catalog": "llama-3.3-70b-instruct", "variant": "bf16"}

        body = self.plan(api, **wish).json()
        ordered = api.post(URL, wish, format="json")

        assert (body["fits"], any(host["fits"] for host in body["hosts"])) == (True, False)
        assert (body["group"]["hosts"], body["group"]["gpus_each"]) == (["alpha", "beta"], 2)
        assert body["group"]["settings"]["pipeline_parallel_size"] == 2
        assert body["first_replica"]["members"] == [
            {"rank": 0, "host": "alpha", "gpu_uuids": ["alpha-0", "alpha-1"]},
            {"rank": 1, "host": "beta", "gpu_uuids": ["beta-0", "beta-1"]},
        ]
        price = sum(h["price_per_hour_usd"] for h in api.get("/api/v1/hosts/").json()["results"])
        assert body["cost_per_hour_usd"] == pytest.approx(price)
        assert ordered.status_code == 201
        (revision,) = Revision.objects.all()
        assert (revision.need["hosts"], revision.need["gpus"]) == (2, 4)

    @pytest.mark.parametrize(
        ("placement", "words"),
        [
            ({"host": "alpa"}, "did you mean alpha?"),
            ({"gpu_kind": "b200"}, "there is none"),
            ({"device": "cuda"}, "there is cpu"),
        ],
        ids=["host", "gpu_kind", "device"],
    )
    def test_an_order_for_a_device_that_is_nowhere_names_the_field(self, api, placement, words):
        make_host(name="alpha")

        answer = api.post(URL, {"catalog": SMOL, "placement": placement}, format="json")

        (field,) = placement
        assert (answer.status_code, answer.json()["code"]) == (422, "device_unknown")
        assert answer.json()["field"] == f"placement.{field}"
        assert words in answer.json()["detail"]
        assert not Deployment.objects.exists()

    def test_of_what_fits_nowhere_is_an_answer(self, api):
        answer = self.plan(api)

        assert answer.status_code == 200
        assert (answer.json()["fits"], answer.json()["cost_per_hour_usd"]) == (False, None)

    def test_shows_what_would_change(self, api):
        make_host()
        order(api, name="mine")

        body = self.plan(api, name="mine", engine={"max_model_len": 1024}).json()

        changes = {row["field"]: row["planned"] for row in body["differences"]}
        assert changes["settings.max_model_len"] == 1024
        assert "engine" not in changes

    def test_of_a_simulation_fits_every_host(self, api):
        make_host(memory_gib=1)

        body = self.plan(api, engine={"kind": "simulator", "simulator": {"seed": 1}}).json()

        assert (body["fits"], body["simulated"]) == (True, True)

    @pytest.mark.parametrize(
        "members", [{"catalog": "gpt-9"}, {"variant": "x"}, {"name": "A"}], ids=str
    )
    def test_refuses_what_an_order_would_refuse(self, api, members):
        make_host()

        assert self.plan(api, **members).status_code == 400
