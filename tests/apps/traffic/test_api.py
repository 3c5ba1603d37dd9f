"""Keys, usage, metrics and cost over REST."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.urls import include, path
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from rest_framework.test import APIClient

from apps.accounts.models import AuditEntry, User
from apps.accounts.states import Role
from apps.deployments.models import Deployment, Event
from apps.lib import clock, secrets
from apps.traffic import actions, budget, keys, ledger, queries, rollup, usage
from apps.traffic.models import ApiKey, UsageHour
from apps.traffic.urls import api_patterns
from apps.traffic.usage import Group, UsageFilter
from gateway.wire import Outcome, UsageBatch, UsageRecord
from tests.apps.traffic import world

pytestmark = pytest.mark.django_db

KEYS = "/api/v1/api-keys/"
ALIASES = "/api/v1/model-aliases/"


def client(role=Role.OPERATOR) -> APIClient:
    answer = APIClient()
    name = f"the-{role}"
    answer.force_authenticate(User.objects.filter(username=name).first() or world.user(name, role))
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


async def whole(response) -> bytes:
    """Return a streamed file as a server would send it."""
    return b"".join([part async for part in response])


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

        with django_assert_num_queries(3):
            page = api.get(KEYS, {"page_size": 10}).json()

        assert (page["count"], len(page["results"])) == (12, 10)


class TestBudgets:
    def arrange(self, spent_usd: str, **budget: str) -> str:
        """Return the id of a key that spent so much just now."""
        made = client().post(KEYS, {"name": "ci", **budget}, format="json").json()
        world.deployment()
        host = world.host(price_per_hour_usd=Decimal(spent_usd) * 4)
        replica = world.replica(Deployment.objects.get(), host)
        begin = clock.now()  # not earlier: that may be yesterday
        records(
            record(begin, key_id=made["id"], replica=str(replica.pk), total_seconds=3600.0),
            now=clock.now(),
        )
        return made["id"]

    def route(self, now=None):
        (route,) = queries.routing_table("", now or clock.now()).keys
        return route

    @pytest.mark.parametrize(
        ("spent_usd", "state", "low", "exhausted"),
        [("5", "ok", False, False), ("8", "low", True, False), ("10", "exhausted", False, True)],
    )
    def test_reach_the_gateway_as_a_state(self, spent_usd, state, low, exhausted):
        key = self.arrange(spent_usd, budget_usd_per_month="10")

        shown = client(Role.VIEWER).get(f"{KEYS}{key}/").json()

        assert (shown["budget_state"], shown["spent_this_month_usd"]) == (state, float(spent_usd))
        assert (self.route().budget_low, self.route().budget_exhausted) == (low, exhausted)

    def test_begin_anew_with_the_day_and_the_month(self):
        self.arrange("10", budget_usd_per_day="4", budget_usd_per_month="20")
        now = clock.now()
        tomorrow = budget.day_start(now) + timedelta(days=1, minutes=1)

        assert self.route(now).budget_exhausted
        assert self.route(now).budget_resets_at == (tomorrow - timedelta(minutes=1)).timestamp()
        assert not self.route(tomorrow).budget_exhausted

    def test_the_tighter_one_counts(self):
        self.arrange("10", budget_usd_per_day="100", budget_usd_per_month="5")

        following = budget.month_start(budget.month_start(clock.now()) + timedelta(days=32))
        assert self.route().budget_exhausted
        assert self.route().budget_resets_at == following.timestamp()

    @pytest.mark.parametrize(
        ("spent_usd", "rings"), [("5", 0), ("9", 1)], ids=["far from the end", "near the end"]
    )
    def test_gateways_are_told_when_a_state_changes(self, spent_usd, rings, monkeypatch):
        rung = []
        monkeypatch.setattr(ledger.doorbell, "ring", lambda *topics: rung.append(topics))

        self.arrange(spent_usd, budget_usd_per_month="10")

        assert len([topics for topics in rung if topics == ("table",)]) == rings + 1  # + the key's

    def test_may_be_changed_and_taken_away(self):
        api = client()
        made = api.post(KEYS, {"name": "ci", "budget_usd_per_day": 2.5}, format="json").json()

        changed = api.patch(f"{KEYS}{made['id']}/", {"budget_usd_per_day": None}, format="json")

        assert (made["budget_usd_per_day"], made["budget_state"]) == (2.5, "ok")
        assert (changed.json()["budget_usd_per_day"], changed.json()["budget_state"]) == (
            None,
            "none",
        )

    @pytest.mark.parametrize("usd", [0, -1, "much"])
    def test_must_be_money(self, usd):
        answer = client().post(KEYS, {"name": "ci", "budget_usd_per_day": usd}, format="json")

        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("budget_usd_per_day")


class TestAliases:
    def make(self, name="gpt-4o", deployment="smol"):
        return client().post(ALIASES, {"name": name, "deployment": deployment}, format="json")

    def test_lead_to_their_deployment_under_its_engines_name(self):
        world.replica(world.deployment("smol"), world.host())

        made = self.make("vendor/gpt-4o")

        models = queries.routing_table("alpha", world.NOW).models
        assert made.status_code == 201
        assert models["vendor/gpt-4o"].deployment == "smol"
        assert models["vendor/gpt-4o"].upstream_name == "smol"
        assert models["vendor/gpt-4o"].replicas == models["smol"].replicas

    def test_may_be_pointed_elsewhere_and_deleted(self):
        world.deployment("smol")
        world.deployment("big")
        self.make()
        api = client()

        moved = api.patch(f"{ALIASES}gpt-4o/", {"deployment": "big"}, format="json")
        table = queries.routing_table("", world.NOW)
        assert api.delete(f"{ALIASES}gpt-4o/").status_code == 204

        assert (moved.json()["deployment"], table.models["gpt-4o"].deployment) == ("big", "big")
        assert "gpt-4o" not in queries.routing_table("", world.NOW).models
        assert api.get(f"{ALIASES}gpt-4o/").json()["code"] == "alias_unknown"
        assert list(
            AuditEntry.objects.filter(target="gpt-4o").order_by("id").values_list("action", flat=1)
        ) == ["model_alias.created", "model_alias.changed", "model_alias.deleted"]

    @pytest.mark.parametrize(
        ("name", "deployment", "status", "field"),
        [
            ("smol", "smol", 409, "name"),
            ("taken", "smol", 409, "name"),
            ("-x", "smol", 400, "name"),
            ("a b", "smol", 400, "name"),
            ("new", "no-such", 400, "deployment"),
        ],
    )
    def test_that_cannot_be_are_refused_by_field(self, name, deployment, status, field):
        world.deployment("smol")
        self.make("taken")

        answer = self.make(name, deployment)

        assert answer.status_code == status
        assert answer.json()["detail"].startswith(field)

    def test_give_way_to_a_deployment_of_their_name(self):
        world.deployment("smol")
        self.make("later")
        world.deployment("later")

        assert queries.routing_table("", world.NOW).models["later"].deployment == "later"

    def test_may_be_all_that_a_key_may_use(self):
        world.deployment("smol")
        self.make()

        made = client().post(KEYS, {"name": "ci", "models": ["gpt-4o"]}, format="json")

        assert made.status_code == 201

    def test_a_viewer_reads_but_does_not_write(self):
        api = client(Role.VIEWER)

        assert api.get(ALIASES).json()["count"] == 0
        assert api.post(ALIASES, {"name": "x", "deployment": "y"}).status_code == 403


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

        lines = async_to_sync(whole)(response).decode().splitlines()
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


class TestHours:
    """Questions are answered from hourly sums; they must be what the rows themselves add up to."""

    START = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    SPANS = ((0, 3000), (15, 40), (59, 61), (60, 180), (61, 121), (7, 2345), (100, None))
    """Minutes after START; None: no end."""

    def arrange(self) -> list[datetime]:
        chance = random.Random(7)
        moments = [self.START + timedelta(minutes=chance.uniform(0, 3000)) for _ in range(150)]
        for part in (range(40), range(40, 150)):
            records(*(self.one(n, moments[n]) for n in part))
        return moments

    def one(self, n: int, at: datetime) -> UsageRecord:
        outcome = Outcome.FAILED if n % 3 == 0 else Outcome.COMPLETED
        return record(at, deployment="ab"[n % 2], cached_tokens=[None, 5][n % 2], outcome=outcome)

    def test_add_up_to_the_rows_of_any_span(self):
        moments = self.arrange()
        wrong = [
            (group, span)
            for group in Group
            for span in self.SPANS
            if not self.is_right(group, self.filter(*span), moments)
        ]

        assert wrong == []

    def filter(self, since: int, until: int | None) -> UsageFilter:
        end = None if until is None else self.START + timedelta(minutes=until)
        return UsageFilter(since=self.START + timedelta(minutes=since), until=end)

    def is_right(self, group: Group, which: UsageFilter, moments: list[datetime]) -> bool:
        wanted = {
            n: at
            for n, at in enumerate(moments)
            if which.since <= at and (which.until is None or at < which.until)
        }
        rows = usage.grouped(group, which)
        values = [row["value"] for row in rows]
        hours = sorted({rollup.hour_of(at) for at in wanted.values()})
        return (
            sum(row["requests"] for row in rows) == len(wanted)
            and sum(row["prompt"] for row in rows) == 100 * len(wanted)
            and sum(row["cached"] for row in rows) == 5 * sum(n % 2 for n in wanted)
            and sum(row["failed"] for row in rows) == sum(n % 3 == 0 for n in wanted)
            and len(set(values)) == len(values)
            and (group is not Group.HOUR or values == hours)
        )

    def test_cost_few_queries_however_many_rows_there_are(self, django_assert_max_num_queries):
        self.arrange()
        which = UsageFilter(since=self.START + timedelta(minutes=7), until=clock.now())

        with django_assert_max_num_queries(3):
            usage.grouped(Group.DAY, which)

    def test_know_one_key_and_one_deployment(self):
        self.arrange()
        key = uuid4()
        records(record(self.START, key_id=str(key), deployment="a"))

        of_b = usage.grouped(Group.KEY, UsageFilter(since=self.START, deployment="b"))
        of_key = usage.grouped(Group.KEY, UsageFilter(since=self.START, key=key))

        assert [(row["value"], row["requests"]) for row in of_b] == [(None, 75)]
        assert [(row["value"], row["requests"]) for row in of_key] == [(key, 1)]

    def test_a_record_that_comes_again_counts_once(self):
        one = record(self.START)
        records(one)
        records(one)

        assert UsageHour.objects.get().requests == 1


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
