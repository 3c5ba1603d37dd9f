"""What is ordered from the pages: carried out, or refused with the reason at its place."""

import re

import pytest

from apps.accounts.models import User
from apps.deployments.models import Deployment
from apps.fleet.models import DefaultPrice, Host, JoinToken
from apps.lib import clock
from apps.traffic.models import ApiKey, ModelAlias, UsageHour
from tests.apps.dashboard import factories

SLUG = "smollm2-135m-instruct"


def text_of(response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


@pytest.fixture
def smol(db):
    made = factories.deployment("smol", phase="ready")
    factories.replica(made, factories.host())
    return made


class TestDeploy:
    def test_one_click_deploys_and_opens_the_page(self, signed_in):
        factories.host()

        response = signed_in.post(f"/catalog/{SLUG}/deploy/")

        assert response["Location"] == f"/deployments/{SLUG}/"
        assert Deployment.objects.get().name == SLUG

    def test_settings_go_into_the_order(self, signed_in):
        factories.host()

        signed_in.post(
            f"/catalog/{SLUG}/deploy/",
            {"name": "chat", "replicas": "2", "max_model_len": "1024", "variant": "bf16"},
        )

        made = Deployment.objects.get(name="chat")
        assert made.scaling.min_replicas == 2
        assert made.revisions.get().variant == "bf16"
        assert made.revisions.get().settings == {"max_model_len": 1024}

    def test_the_advanced_part_has_every_other_engine_setting_once(self, signed_in):
        factories.host()

        page = signed_in.get(f"/catalog/{SLUG}/").content.decode()

        names = re.findall(r'name="([a-z_]+)"', page)
        assert {"enforce_eager", "kv_cache_dtype", "tensor_parallel_size"} <= set(names)
        assert [names.count(name) for name in ("max_model_len", "max_num_seqs")] == [1, 1]
        assert '<details class="advanced">' in page

    def test_advanced_settings_go_into_the_order_and_the_fit(self, signed_in):
        factories.host()
        given = {"name": "chat", "max_model_len": "1024", "kv_cache_bytes": str(512 * 1024**2)}

        fit = signed_in.get(f"/catalog/{SLUG}/check/", given, headers={"X-Part": "live"})
        signed_in.post(f"/catalog/{SLUG}/deploy/", given)

        assert "KV cache 537 MB" in text_of(fit).replace("\xa0", " ")
        settings = Deployment.objects.get(name="chat").revisions.get().settings
        assert settings == {"max_model_len": 1024, "kv_cache_bytes": 512 * 1024**2}

    def test_a_wrong_advanced_setting_opens_the_part_and_stands_beside_its_field(self, signed_in):
        factories.host()

        response = signed_in.post(f"/catalog/{SLUG}/deploy/", {"kv_cache_bytes": "5"})

        page = response.content.decode()
        wrong = re.search(r'<div class="f wrong">.*?</div>', page, re.S)
        assert response.status_code == 422
        assert wrong
        assert 'for="id_kv_cache_bytes"' in wrong[0]
        assert '<details class="advanced" open>' in page

    def test_without_a_host_it_says_so_and_leaves_nothing(self, signed_in):
        response = signed_in.post(f"/catalog/{SLUG}/deploy/")

        assert response.status_code == 422
        assert "no host" in text_of(response).lower()
        assert not Deployment.objects.exists()

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("name", "smol", "another name"),
            ("name", "Bad Name!", "a-z, 0-9"),
            ("replicas", "-1", "greater than or equal"),
            ("variant", "nope", "not one of"),
            ("max_model_len", "99999999", "max_model_len"),
        ],
    )
    def test_a_wrong_field_is_told_beside_it(self, signed_in, smol, field, value, said):
        response = signed_in.post(f"/catalog/{SLUG}/deploy/", {field: value})

        assert response.status_code == 422
        wrong = re.search(r'<div class="f wrong">.*?</div>', response.content.decode(), re.S)
        assert wrong, text_of(response)
        assert f'for="id_{field}"' in wrong[0]
        assert said in wrong[0]

    def test_the_fit_is_asked_while_typing(self, signed_in):
        factories.host()

        response = signed_in.get(
            f"/catalog/{SLUG}/check/?max_model_len=4096", headers={"X-Part": "live"}
        )

        assert "Fits box now" in text_of(response)

    def test_hosts_that_would_hold_a_model_together_are_named(self, signed_in):
        for name in ("alpha", "beta"):
            factories.host(name, gpus=2)
        wish = {"variant": "bf16"}

        page = signed_in.get(
            "/catalog/llama-3.3-70b-instruct/check/", wish, headers={"X-Part": "live"}
        )

        assert "alpha, beta hold bf16 together: 2 GPUs of kind" in text_of(page)

    def test_an_unknown_model_is_a_404(self, signed_in):
        assert signed_in.get("/catalog/nope/").status_code == 404

    def test_viewers_are_refused(self, viewer):
        factories.host()

        assert viewer.post(f"/catalog/{SLUG}/deploy/").status_code == 403
        assert not Deployment.objects.exists()


class TestDeployment:
    def test_stops_and_starts(self, signed_in, smol):
        signed_in.post("/deployments/smol/stop/")
        smol.refresh_from_db()
        stopped = smol.desired

        signed_in.post("/deployments/smol/start/")

        smol.refresh_from_db()
        assert (stopped, smol.desired) == ("stopped", "running")

    def test_goes_back_to_the_page_it_came_from(self, signed_in, smol):
        response = signed_in.post("/deployments/smol/stop/", {"next": "/deployments/?q=smol"})

        assert response["Location"] == "/deployments/?q=smol"

    def test_never_goes_to_another_site(self, signed_in, smol):
        response = signed_in.post("/deployments/smol/stop/", {"next": "https://evil.example/"})

        assert response["Location"] == "/deployments/smol/"

    def test_scales(self, signed_in, smol):
        signed_in.post("/deployments/smol/scale/", {"replicas": "3"})

        smol.scaling.refresh_from_db()
        assert smol.scaling.min_replicas == 3

    @pytest.mark.parametrize("wanted", ["-1", "many", "", "1001"])
    def test_a_number_of_replicas_that_cannot_be_is_refused(self, signed_in, smol, wanted):
        response = signed_in.post("/deployments/smol/scale/", {"replicas": wanted}, follow=True)

        smol.scaling.refresh_from_db()
        assert smol.scaling.min_replicas == 1
        assert 'class="toast error"' in response.content.decode()

    def test_is_deleted_once_its_name_was_typed(self, signed_in, smol):
        signed_in.post("/deployments/smol/delete/", {"confirm": "smo"})
        smol.refresh_from_db()
        before = smol.desired

        signed_in.post("/deployments/smol/delete/", {"confirm": "smol"})

        smol.refresh_from_db()
        assert (before, smol.desired) == ("running", "deleted")

    def test_replicas_are_restarted_one_by_one(self, signed_in, smol):
        replica = smol.replicas.get()

        signed_in.post(f"/deployments/smol/replicas/{replica.pk}/restart/")

        replica.refresh_from_db()
        assert replica.desired == "drained"

    @pytest.mark.parametrize("verb", ["start", "stop", "scale", "delete"])
    def test_an_unknown_one_changes_nothing(self, signed_in, verb):
        response = signed_in.post(
            f"/deployments/nope/{verb}/", {"replicas": "1", "confirm": "nope"}
        )

        assert response.status_code in (303, 404)

    def test_orders_need_a_post(self, signed_in, smol):
        assert signed_in.get("/deployments/smol/stop/").status_code == 405


class TestHosts:
    def test_the_join_command_is_shown_once(self, signed_in):
        first = text_of(signed_in.post("/hosts/join/"))
        second = text_of(signed_in.get("/hosts/"))

        assert "HEARTH_JOIN_TOKEN=hearth-join_" in first
        assert "HEARTH_JOIN_TOKEN" not in second
        assert JoinToken.objects.count() == 1

    def test_a_price_is_set_and_goes_back_to_the_default(self, signed_in):
        factories.host("box")
        signed_in.post("/hosts/box/price/", {"price": "1.25"})
        set_to = Host.objects.get().price_per_hour_usd

        signed_in.post("/hosts/box/price/", {"price": ""})

        assert (str(set_to), Host.objects.get().price_per_hour_usd) == ("1.250000", None)

    @pytest.mark.parametrize("price", ["-1", "cheap", "NaN", "1e99"])
    def test_a_price_that_cannot_be_is_refused(self, signed_in, price):
        factories.host("box")

        response = signed_in.post("/hosts/box/price/", {"price": price}, follow=True)

        assert Host.objects.get().price_per_hour_usd is None
        assert 'class="toast error"' in response.content.decode()

    def test_a_host_drains_and_takes_replicas_again(self, signed_in):
        factories.host("box")
        signed_in.post("/hosts/box/drain/")
        drained = Host.objects.get().cordoned

        signed_in.post("/hosts/box/uncordon/")

        assert (drained, Host.objects.get().cordoned) == (True, False)

    def test_a_taint_is_put_on_and_taken_off(self, signed_in):
        factories.host("box")
        signed_in.post("/hosts/box/taint/", {"key": "team", "value": "blue", "effect": "avoid"})
        put = Host.objects.get().taints

        signed_in.post("/hosts/box/taint/", {"key": "team", "value": "blue"})
        changed = Host.objects.get().taints
        signed_in.post("/hosts/box/untaint/", {"key": "team", "value": "blue"})

        assert put == [{"key": "team", "value": "blue", "effect": "avoid"}]
        assert changed == [{"key": "team", "value": "blue", "effect": "refuse"}]
        assert Host.objects.get().taints == []

    @pytest.mark.parametrize("key", ["", "-x", "a b"])
    def test_a_taint_that_cannot_be_is_refused(self, signed_in, key):
        factories.host("box")

        response = signed_in.post("/hosts/box/taint/", {"key": key}, follow=True)

        assert Host.objects.get().taints == []
        assert 'class="toast error"' in response.content.decode()

    def test_a_host_has_so_many_taints_and_no_more(self, signed_in):
        taints = [{"key": f"k{n}", "effect": "refuse"} for n in range(32)]
        factories.host("box", taints=taints)

        response = signed_in.post("/hosts/box/taint/", {"key": "more"}, follow=True)

        assert "has 32 taints already" in text_of(response)
        assert Host.objects.get().taints == taints

    def test_operators_may_not_change_hosts(self, client, redis, db):
        factories.host("box")
        client.force_login(factories.user("olga", "operator"))

        assert client.post("/hosts/box/drain/").status_code == 403
        assert client.post("/hosts/box/taint/", {"key": "a"}).status_code == 403
        assert client.post("/hosts/join/").status_code == 403


class TestKeys:
    def test_the_secret_is_shown_once(self, signed_in):
        first = text_of(signed_in.post("/keys/", {"name": "bot", "rpm": "60"}))
        key = ApiKey.objects.get(internal=False)
        second = text_of(signed_in.get("/keys/"))

        secret = re.search(rf"{key.prefix}_\S+", first)
        assert secret is not None
        assert secret[0] not in second
        assert (key.rpm, key.allowed_models) == (60, ["*"])

    def test_a_key_may_be_for_some_models(self, signed_in, smol):
        signed_in.post("/keys/", {"name": "bot", "allowed_models": ["smol"], "days": "7"})

        key = ApiKey.objects.get()
        assert key.allowed_models == ["smol"]
        assert key.expires_at is not None

    def test_a_key_shows_what_is_left_of_its_budget(self, signed_in):
        signed_in.post("/keys/", {"name": "bot", "budget_usd_per_month": "10"})
        hour = clock.now().replace(minute=0, second=0, microsecond=0)
        UsageHour.objects.create(
            hour=hour, day=hour.date(), key=str(ApiKey.objects.get().pk), requests=1,
            revision=1, prompt_tokens=1, cached_tokens=0, output_tokens=1, cost_usd=12,
        )  # fmt: skip

        text = text_of(signed_in.get("/keys/"))

        assert "$12.00 of $10.00 a month" in text
        assert "used up" in text

    def test_a_wrong_field_is_told_beside_it(self, signed_in):
        response = signed_in.post("/keys/", {"name": "", "rpm": "0"})

        assert response.status_code == 422
        assert response.content.count(b'class="f wrong"') == 2

    def test_a_key_is_revoked_once_its_name_was_typed(self, signed_in):
        signed_in.post("/keys/", {"name": "bot"})
        key = ApiKey.objects.get()
        signed_in.post(f"/keys/{key.pk}/revoke/", {"confirm": "bo"})
        key.refresh_from_db()
        before = key.revoked_at

        signed_in.post(f"/keys/{key.pk}/revoke/", {"confirm": "bot"})

        key.refresh_from_db()
        assert before is None
        assert key.revoked_at is not None


class TestAliases:
    def test_an_alias_is_made_pointed_elsewhere_and_taken_away(self, signed_in, smol):
        factories.deployment("other", phase="ready")
        name = "org/gpt-4o-mini"

        signed_in.post("/keys/aliases/", {"name": name, "deployment": "smol"})
        first = ModelAlias.objects.get(pk=name).deployment.name
        signed_in.post("/keys/aliases/point/", {"name": name, "deployment": "other"})
        second = ModelAlias.objects.get(pk=name).deployment.name
        signed_in.post(f"/keys/aliases/delete/?name={name}", {"confirm": "something else"})
        kept = ModelAlias.objects.count()
        signed_in.post(f"/keys/aliases/delete/?name={name}", {"confirm": name})

        assert (first, second, kept) == ("smol", "other", 1)
        assert not ModelAlias.objects.exists()

    @pytest.mark.parametrize(
        ("name", "deployment", "said"),
        [
            ("smol", "smol", "is a deployment already"),
            ("no name", "smol", "is no model name"),
            ("gpt", "ghost", "there is no deployment ghost"),
        ],
    )
    def test_a_wrong_one_is_refused_with_the_reason(self, signed_in, smol, name, deployment, said):
        answer = signed_in.post(
            "/keys/aliases/", {"name": name, "deployment": deployment}, follow=True
        )

        assert said in text_of(answer).replace("&#x27;", "'")
        assert not ModelAlias.objects.exists()

    def test_viewers_see_where_an_alias_leads_and_change_nothing(self, client, redis, smol):
        ModelAlias.objects.create(
            name="gpt", deployment=smol, created_by="root", created_at=clock.now()
        )
        client.force_login(factories.user("vera", "viewer"))

        html = client.get("/keys/").content.decode()
        refused = client.post("/keys/aliases/", {"name": "other", "deployment": "smol"})

        assert "gpt" in html
        assert "Add alias" not in html
        assert refused.status_code == 403


class TestSettings:
    def test_a_default_price_is_set_and_reset(self, signed_in):
        signed_in.post("/settings/prices/cpu/", {"price": "0.2"})
        kept = DefaultPrice.objects.filter(kind="cpu").count()

        signed_in.post("/settings/prices/cpu/", {"price": ""})

        assert (kept, DefaultPrice.objects.count()) == (1, 0)

    def test_a_password_is_changed_and_the_session_goes_on(self, signed_in, admin):
        new = "a much longer one 42"

        signed_in.post("/settings/password/", {"old": factories.PASSWORD, "new": new, "again": new})

        assert User.objects.get().check_password(new)
        assert signed_in.get("/settings/").status_code == 200

    @pytest.mark.parametrize(
        ("old", "new", "again"),
        [
            ("wrong", "a much longer one 42", "a much longer one 42"),
            (factories.PASSWORD, "a much longer one 42", "another one 4242"),
            (factories.PASSWORD, "short", "short"),
        ],
        ids=["old is wrong", "differ", "too short"],
    )
    def test_a_password_that_will_not_do_is_refused(self, signed_in, old, new, again):
        signed_in.post("/settings/password/", {"old": old, "new": new, "again": again})

        assert User.objects.get().check_password(factories.PASSWORD)


def test_the_hosts_page_shows_taints_and_what_they_do(signed_in):
    taints = [{"key": "team", "value": "blue"}, {"key": "old", "effect": "avoid"}]
    factories.host("box", taints=taints)

    page = text_of(signed_in.get("/hosts/"))

    assert "team=blue keeps away" in page
    assert "old last choice" in page
