"""Keys, usage, metrics and cost over REST."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.urls import include, path
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from rest_framework.test import APIClient

from apps.accounts.models import AuditEntry
from apps.accounts.states import Role
from apps.deployments.models import Event
from apps.lib import clock, secrets
from apps.traffic import actions, keys, ledger, queries
from apps.traffic.models import ApiKey
from apps.traffic.urls import api_patterns
from gateway.wire import Outcome, UsageBatch, UsageRecord
from tests.apps.traffic import world

pytestmark = pytest.mark.django_db

KEYS = "/api/v1/api-keys/"


def client(role=Role.OPERATOR) -> APIClient:
    answer = APIClient()
    answer.force_authenticate(world.user(f"the-{role}", role))
    return answer


def records(*sent, now=None):
    batch = UsageBatch(gateway_id="g", batch_id=str(uuid4()), records=sent)
    ledger.record(batch, now or clock.now())


def record(admitted_at, **fields) -> UsageRecord:
    values = {
        "id": str(uuid4()),
        "deployment": "smol",
        "model": "smol",
        "admitted_at": admitted_at.timestamp(),
        "total_seconds": 10.0,
        "prompt_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 50,
        "outcome": Outcome.COMPLETED,
        "status": 200,
    }
    return UsageRecord(**(values | fields))


class TestKeys:
    def test_a_new_key_shows_its_secret_once(self):
        api = client()

        made = api.post(KEYS, {"name": "ci"}, format="json")

        assert made.status_code == 201
        body = made.json()
        row = ApiKey.objects.get()
        assert keys.is_well_formed(body["key"])
        assert body["key"].startswith(body["prefix"])
        assert row.sha256 == secrets.digest(body["key"])
        assert "key" not in api.get(f"{KEYS}{body['id']}/").json()
        assert body["key"] not in str(AuditEntry.objects.values_list())

    def test_defaults_allow_every_model_without_limits(self):
        body = client().post(KEYS, {"name": "ci"}, format="json").json()

        assert body["models"] == ["*"]
        assert (body["rpm"], body["tpm"], body["max_in_flight"], body["expires_at"]) == (
            None,
            None,
            None,
            None,
        )

    def test_limits_reach_the_routing_table(self):
        world.deployment("smol")
        order = {"name": "ci", "models": ["smol"], "rpm": 5, "max_in_flight": 2}

        made = client().post(KEYS, order, format="json").json()

        (route,) = queries.routing_table("", world.NOW).keys
        assert (route.id, route.models, route.rpm, route.max_in_flight) == (
            made["id"],
            ("smol",),
            5,
            2,
        )

    @pytest.mark.parametrize(
        ("order", "field"),
        [
            ({}, "name"),
            ({"name": "x", "rpm": 0}, "rpm"),
            ({"name": "x", "rmp": 5}, "rmp"),
            ({"name": "x", "models": []}, "models"),
            ({"name": "x", "models": ["no-such"]}, "models"),
            ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ],
        ids=["no name", "zero", "misspelt", "no models", "unknown model", "past"],
    )
    def test_refuses_an_order_and_names_the_field(self, order, field):
        response = client().post(KEYS, order, format="json")

        assert response.status_code == 400
        assert response.json()["detail"].startswith(field)
        assert not ApiKey.objects.exists()

    def test_patch_changes_what_is_sent_and_null_takes_a_limit_away(self):
        api = client()
        made = api.post(KEYS, {"name": "ci", "rpm": 5, "tpm": 9}, format="json").json()

        changed = api.patch(f"{KEYS}{made['id']}/", {"rpm": None}, format="json").json()

        assert (changed["name"], changed["rpm"], changed["tpm"]) == ("ci", None, 9)

    def test_a_revoked_key_leaves_the_table_and_stays_on_record(self):
        api = client()
        made = api.post(KEYS, {"name": "ci"}, format="json").json()

        assert api.delete(f"{KEYS}{made['id']}/").status_code == 204

        assert queries.routing_table("", world.NOW).keys == ()
        assert api.get(f"{KEYS}{made['id']}/").json()["revoked_at"] is not None
        refused = api.patch(f"{KEYS}{made['id']}/", {"name": "x"}, format="json")
        assert (refused.status_code, refused.json()["code"]) == (409, "key_revoked")

    def test_writes_are_audited(self):
        api = client()
        made = api.post(KEYS, {"name": "ci"}, format="json").json()
        api.patch(f"{KEYS}{made['id']}/", {"name": "ci2"}, format="json")
        api.delete(f"{KEYS}{made['id']}/")

        entries = AuditEntry.objects.order_by("id").values_list("actor", "action", "target")

        assert [entry[1] for entry in entries] == [
            "api_key.created",
            "api_key.changed",
            "api_key.revoked",
        ]
        assert {(entry[0], entry[2]) for entry in entries} == {("the-operator", made["id"])}

    def test_a_viewer_reads_but_does_not_write(self):
        api = client(Role.VIEWER)

        assert api.get(KEYS).status_code == 200
        assert api.post(KEYS, {"name": "x"}, format="json").status_code == 403

    def test_nobody_reads_without_signing_in(self):
        assert APIClient().get(KEYS).status_code == 401

    def test_an_unknown_key_is_404(self):
        assert client().get(f"{KEYS}{uuid4()}/").json()["code"] == "key_unknown"

    def test_a_page_of_keys_costs_a_fixed_number_of_queries(self, django_assert_num_queries):
        api = client()
        for number in range(12):
            api.post(KEYS, {"name": str(number)}, format="json")

        with django_assert_num_queries(2):
            page = api.get(KEYS, {"page_size": 10}).json()

        assert (page["count"], len(page["results"])) == (12, 10)


class TestPlaygroundKey:
    def test_is_the_same_every_time_and_not_in_lists(self):
        api = client()
        user = world.user()

        first = actions.playground_key(user)

        assert actions.playground_key(user) == first
        assert api.get(KEYS).json()["count"] == 0
        assert [key.id for key in queries.routing_table("", world.NOW).keys] == [first[0]]

    def test_its_secret_is_not_in_the_database(self):
        _, secret = actions.playground_key(world.user())

        assert secret not in str(list(ApiKey.objects.values_list()))
        assert keys.is_well_formed(secret)

    def test_follows_a_new_secret_of_the_installation(self, settings):
        user = world.user()
        old_id, old_secret = actions.playground_key(user)
        settings.SECRET_KEY = "another one"

        new_id, new_secret = actions.playground_key(user)

        assert (new_id == old_id, new_secret == old_secret) == (True, False)
        assert ApiKey.objects.get().sha256 == secrets.digest(new_secret)

    def test_ends_with_its_user(self):
        user = world.user()
        actions.playground_key(user)
        user.is_active = False
        user.save()

        assert queries.routing_table("", world.NOW).keys == ()


class TestUsage:
    def arrange(self):
        now = clock.now()
        key, _ = actions.create_key(
            name="ci",
            owner=world.user(),
            limits=actions.KeyLimits(),
            actor="ada",
            now=now,
        )
        records(
            record(now - timedelta(hours=3), key_id=str(key.pk)),
            record(now - timedelta(hours=2), key_id=str(key.pk), outcome=Outcome.FAILED),
            record(now - timedelta(hours=1), deployment="big", model="gpt", cached_tokens=None),
            record(now - timedelta(days=40)),
        )
        return key

    def ask(self, **query):
        return client().get("/api/v1/usage/", query)

    def test_groups_by_deployment_over_the_last_30_days(self):
        self.arrange()

        page = self.ask().json()

        assert page["count"] == 2
        big, smol = page["results"]
        assert (big["group"], big["requests"], big["cached_tokens"]) == ("big", 1, 0)
        assert (smol["group"], smol["requests"], smol["failed"]) == ("smol", 2, 1)
        assert (smol["prompt_tokens"], smol["cached_tokens"], smol["output_tokens"]) == (
            200,
            80,
            100,
        )

    def test_names_the_key(self):
        key = self.arrange()

        rows = self.ask(group_by="key").json()["results"]

        assert {(row["group"], row["label"]) for row in rows} == {
            (str(key.pk), "ci"),
            (None, "none"),
        }

    @pytest.mark.parametrize("group", ["model", "replica", "host", "outcome", "hour", "day"])
    def test_every_group_counts_every_request_once(self, group):
        self.arrange()

        rows = self.ask(group_by=group).json()["results"]

        assert sum(row["requests"] for row in rows) == 3

    def test_filters_by_time_and_key(self):
        key = self.arrange()
        since = clock.now() - timedelta(hours=2, minutes=30)

        rows = self.ask(**{"key": str(key.pk), "from": since.isoformat()}).json()["results"]

        assert [row["requests"] for row in rows] == [1]

    def test_gives_a_file(self):
        self.arrange()

        response = self.ask(format="csv")

        lines = response.content.decode().splitlines()
        assert response["content-type"].startswith("text/csv")
        assert lines[0].startswith("group,label,requests,failed,prompt_tokens")
        assert len(lines) == 3

    @pytest.mark.parametrize(
        "query",
        [
            {"group_by": "colour"},
            {"from": "yesterday"},
            {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        ],
        ids=["group", "time", "order"],
    )
    def test_refuses_a_question_that_makes_no_sense(self, query):
        assert self.ask(**query).status_code == 400


class TestCost:
    def arrange(self):
        """Half a host at 3.60 $/h: 0.0005 $/s. Starting 100 s, ready 200 s, busy 20 s of them."""
        now = clock.now()
        born = now - timedelta(seconds=300)
        host = world.host(price_per_hour_usd="3.6")
        replica = world.replica(
            world.deployment(), host, memory_bytes=32 * world.GIB, created_at=born
        )
        for seconds, phase in ((0, "starting"), (100, "ready")):
            Event.objects.create(
                at=born + timedelta(seconds=seconds),
                kind=f"replica.{phase}",
                replica=replica.pk,
                deployment="smol",
                message="",
            )
        start = born + timedelta(seconds=150)
        both = {"replica": str(replica.pk), "prompt_tokens": 5000, "output_tokens": 5000}
        records(record(start, **both), record(start, **both))
        records(record(start + timedelta(seconds=10), **both))
        return replica

    def test_adds_up(self):
        self.arrange()

        body = client().get("/api/v1/deployments/smol/cost/", {"window": "1h"}).json()

        assert body["allocation"]["usd"] == pytest.approx(0.15, rel=0.02)
        assert body["usage"]["usd"] == pytest.approx(0.01, rel=1e-6)
        assert body["lines"]["starting"] == pytest.approx(0.05, rel=0.02)
        assert body["lines"]["serving"] == pytest.approx(0.01, rel=1e-6)
        assert sum(body["lines"].values()) == pytest.approx(body["allocation"]["usd"])
        assert body["usage"]["usd_per_million_tokens"] == pytest.approx(0.01 / 30_000 * 1e6)
        assert body["tokens"] == {"prompt": 15_000, "cached": 120, "output": 15_000}
        assert body["price_is_default"] is False

    def test_says_when_the_price_is_a_default(self):
        replica = self.arrange()
        replica.host.price_per_hour_usd = None
        replica.host.save()

        body = client().get("/api/v1/deployments/smol/cost/").json()

        assert body["price_is_default"] is True

    def test_is_zero_for_a_deployment_that_held_nothing(self):
        world.deployment("new")

        body = client().get("/api/v1/deployments/new/cost/").json()

        assert body["allocation"] == {"usd": 0.0, "usd_per_million_tokens": None}

    def test_unknown_deployment_and_window(self):
        world.deployment("smol")
        api = client()

        assert api.get("/api/v1/deployments/none/cost/").status_code == 404
        wrong = api.get("/api/v1/deployments/smol/cost/", {"window": "soon"})
        assert (wrong.status_code, wrong.json()["field"]) == (400, "window")


class TestMetrics:
    def test_is_empty_but_whole_for_an_idle_deployment(self, redis):
        world.deployment("smol")

        body = client().get("/api/v1/deployments/smol/metrics/", {"window": "15m"}).json()

        assert (body["window_seconds"], body["step_seconds"], body["points"]) == (900, 10, [])
        assert body["live"]["in_flight"] == 0
        assert body["stale"] is False

    def test_answers_without_redis_and_says_so(self, no_redis):
        world.deployment("smol")

        body = client().get("/api/v1/deployments/smol/metrics/").json()

        assert body["stale"] is True


def test_schema_has_no_warnings(capsys):
    schema = SchemaGenerator(patterns=[path("api/v1/", include(api_patterns))]).get_schema(
        public=True
    )

    validate_schema(schema)
    assert "/api/v1/api-keys/" in schema["paths"]
    assert capsys.readouterr().err == ""
