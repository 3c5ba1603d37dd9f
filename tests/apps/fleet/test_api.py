"""Hosts, join tokens and prices over REST."""

import shlex

import pytest

from agents import settings as agent_settings
from apps.accounts.states import Role
from apps.fleet import actions
from apps.fleet.models import Host
from apps.fleet.serializers import HostSerializer
from apps.fleet.states import HostState
from tests.apps.accounts.people import make_client
from tests.apps.fleet.rows import NOW, make_gpu, make_host, make_request

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def api():
    return make_client(Role.ADMIN)


class TestHosts:
    def test_answer_what_the_schema_says(self, api):
        make_host(gpus=(make_gpu(),))

        [row] = api.get("/api/v1/hosts/").json()["results"]

        assert row.keys() == HostSerializer().fields.keys()
        assert row["gpus"][0]["name"] == "NVIDIA H100 80GB HBM3"
        assert (row["price_per_hour_usd"], row["price_is_default"]) == (2.4, True)

    def test_never_show_a_key_or_credential(self, api):
        host = make_host()

        text = api.get("/api/v1/hosts/").content.decode()

        assert host.relay_key not in text
        assert host.credential_sha256 not in text

    @pytest.mark.parametrize(
        ("query", "expected"),
        [({"state": "lost"}, ["b"]), ({"q": "A"}, ["a"]), ({}, ["a", "b"])],
        ids=str,
    )
    def test_are_narrowed_by_state_and_name(self, api, query, expected):
        make_host(name="a")
        make_host(name="b", state=HostState.LOST)

        rows = api.get("/api/v1/hosts/", query).json()["results"]

        assert [row["name"] for row in rows] == expected

    def test_refuse_a_state_that_is_none(self, api):
        assert api.get("/api/v1/hosts/", {"state": "asleep"}).status_code == 400

    def test_cost_the_same_few_queries_however_many(self, api, django_assert_max_num_queries):
        for number in range(40):
            make_host(name=f"gpu-{number}")

        with django_assert_max_num_queries(5):
            assert len(api.get("/api/v1/hosts/").json()["results"]) == 40


class TestHost:
    def test_that_is_unknown_answers_404(self, api):
        answer = api.get("/api/v1/hosts/nope/")

        assert (answer.status_code, answer.json()["code"]) == (404, "host_unknown")

    def test_takes_a_price_and_labels(self, api):
        make_host()
        change = {"price_per_hour_usd": 1.25, "labels": {"zone": "eu"}}

        row = api.patch("/api/v1/hosts/alpha/", change, format="json").json()

        assert (row["price_per_hour_usd"], row["price_is_default"]) == (1.25, False)
        assert row["labels"] == {"zone": "eu"}

    def test_goes_back_to_its_default_price(self, api):
        make_host(price_per_hour_usd=3)

        row = api.patch("/api/v1/hosts/alpha/", {"price_per_hour_usd": None}, format="json").json()

        assert row["price_is_default"]

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"price_per_hour_usd": -1}, "price_per_hour_usd"),
            ({"price_per_hour_usd": "dear"}, "price_per_hour_usd"),
            ({"price_per_hour_usd": "NaN"}, "price_per_hour_usd"),
            ({"labels": {"zone": "a b"}}, "labels.zone"),
            ({"labels": {"a b": "c"}}, "labels"),
            ({"labels": ["zone"]}, "labels"),
            ({"labels": {str(n): "x" for n in range(65)}}, "labels"),
            ({"price": 1}, "price"),
            ({}, ""),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_refuses_wrong_values_by_field(self, api, change, field):
        make_host()

        answer = api.patch("/api/v1/hosts/alpha/", change, format="json")

        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == field
        assert Host.objects.get().price_per_hour_usd is None

    def test_is_drained_and_uncordoned(self, api):
        make_host()

        assert api.post("/api/v1/hosts/alpha/drain/").json()["cordoned"]
        assert not api.post("/api/v1/hosts/alpha/uncordon/").json()["cordoned"]

    def test_is_declared_lost_with_an_event(self, api):
        make_host(state=HostState.UNKNOWN)

        answer = api.post("/api/v1/hosts/alpha/declare-lost/")

        assert answer.json()["state"] == "lost"
        [event] = api.get("/api/v1/events/", {"host": "alpha"}).json()["results"]
        assert (event["kind"], event["actor"]) == ("host.lost", "admin")

    def test_is_deleted_when_it_is_gone(self, api):
        make_host(state=HostState.LOST)

        assert api.delete("/api/v1/hosts/alpha/").status_code == 204
        assert api.get("/api/v1/hosts/alpha/").status_code == 404


class TestJoinTokens:
    def test_answer_a_command_that_can_be_copied(self, api):
        made = api.post("/api/v1/join-tokens/").json()

        words = shlex.split(made["command"])
        assert words[0] == f"HEARTH_JOIN_TOKEN={made['token']}"
        assert words[words.index("--control-plane") + 1] == "http://testserver"

    def test_give_the_new_host_the_name_that_was_asked_for(self, api):
        made = api.post("/api/v1/join-tokens/", {"name": "gpu-2"}, format="json").json()

        words = shlex.split(made["command"])
        assert words[words.index("--name") + 1] == "gpu-2"

    def test_give_a_command_that_the_agent_understands(self, api, settings):
        settings.PUBLIC_URL = "https://hearth.example"
        made = api.post("/api/v1/join-tokens/", {"name": "gpu-2"}, format="json").json()

        environment, program, *arguments = made["command"].partition(" -m agents ")
        read = agent_settings.read(
            shlex.split(arguments[0]), dict([environment.split()[0].split("=", 1)])
        )

        assert program == " -m agents "
        assert (read.join_token, read.host_name) == (made["token"], "gpu-2")
        assert read.control_plane == "https://hearth.example"
        assert read.relay_listen == ("0.0.0.0", 8470)

    def test_take_no_name_that_a_shell_would_run(self, api):
        answer = api.post("/api/v1/join-tokens/", {"name": "x;rm"}, format="json")

        assert answer.json()["errors"][0]["field"] == "name"

    @pytest.mark.parametrize(
        ("address", "opens"), [("http://127.0.0.1:8000", False), ("http://10.0.0.1", True)]
    )
    def test_open_the_relay_only_where_gateways_are_elsewhere(self, api, settings, address, opens):
        settings.PUBLIC_URL = address

        made = api.post("/api/v1/join-tokens/").json()

        assert ("--relay-listen" in made["command"]) is opens

    def test_answer_the_public_address_where_there_is_one(self, api, settings):
        settings.PUBLIC_URL = "https://hearth.example"

        assert "https://hearth.example" in api.post("/api/v1/join-tokens/").json()["command"]

    def test_show_the_secret_once(self, api):
        made = api.post("/api/v1/join-tokens/").json()

        answer = api.get("/api/v1/join-tokens/")

        assert made["token"] not in answer.content.decode()
        assert answer.json()["results"][0]["id"] == made["id"]

    def test_tell_which_host_they_enrolled(self, api):
        token = api.post("/api/v1/join-tokens/").json()["token"]

        actions.enrol(make_request(token=token), NOW)

        [row] = api.get("/api/v1/join-tokens/").json()["results"]
        assert row["host"] == "gpu-1"

    def test_are_revoked(self, api):
        made = api.post("/api/v1/join-tokens/").json()

        assert api.delete(f"/api/v1/join-tokens/{made['id']}/").status_code == 204
        [row] = api.get("/api/v1/join-tokens/").json()["results"]
        assert row["expires_at"] < made["expires_at"]


class TestDefaultPrices:
    def test_list_every_kind_with_the_cpu_first(self, api):
        rows = api.get("/api/v1/default-prices/").json()["results"]

        assert rows[0] == {"kind": "cpu", "price_per_hour_usd": 0.05, "is_set": False}
        assert "h100" in {row["kind"] for row in rows}

    def test_are_set_by_a_gpus_whole_name(self, api):
        url = "/api/v1/default-prices/NVIDIA H100 PCIe/"

        row = api.put(url, {"price_per_hour_usd": 1.5}, format="json").json()

        assert row == {"kind": "h100", "price_per_hour_usd": 1.5, "is_set": True}
        assert api.delete(url).status_code == 204
        rows = api.get("/api/v1/default-prices/").json()["results"]
        assert not [one for one in rows if one["is_set"]]

    def test_refuse_what_is_no_price(self, api):
        answer = api.put("/api/v1/default-prices/cpu/", {"price_per_hour_usd": -1}, format="json")

        assert answer.json()["errors"][0]["field"] == "price_per_hour_usd"
