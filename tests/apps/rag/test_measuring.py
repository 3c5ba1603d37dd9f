"""Profiles, comparisons, judgements and evaluations; aliases for OpenAI clients."""

import json

import pytest
from django.test import AsyncClient, Client

from apps.accounts.models import User
from apps.deployments.models import Deployment
from apps.traffic import actions as traffic
from apps.traffic import queries
from tests.apps.accounts.people import client_of
from tests.apps.rag import shelf

BASE = "/api/v1/knowledge-bases/handbook"
TEXTS = {
    "holiday.txt": b"Every person has thirty days of holiday a year.",
    "travel.txt": b"Trains are paid for, taxis are not, on holiday or off.",
    "laptop.txt": b"A lost laptop is told to security within an hour.",
}


@pytest.mark.django_db
@pytest.mark.usefixtures("redis", "milvus")
class TestEvaluation:
    @pytest.fixture(autouse=True)
    def filled(self, user):
        base = shelf.base(user)
        for name, text in TEXTS.items():
            document = shelf.upload(base, user, text, name)
        shelf.ingested(document)

    def judge(self, api, text: str, form: str = "csv", **more):
        body = {"format": form, "text": text, **more}
        return api.post(f"{BASE}/judgements/", body, format="json")

    def test_measures_profiles_on_imported_judgements_and_promotes_one(self, api):
        api.post(
            f"{BASE}/profiles/", {"name": "one", "settings": {"mode": "lexical"}}, format="json"
        )
        self.judge(
            api,
            "question,document,grade\nholiday days,holiday.txt,2\nlost laptop,laptop.txt,1\n"
            "holiday days,travel.txt,0",
        )

        done = api.post(f"{BASE}/evaluate/", {"profiles": ["default", "one"]}, format="json").json()
        promoted = api.post(f"{BASE}/promote/", {"profile": "one"}, format="json")

        assert done["state"] == "done", done
        assert [row["ndcg_at_10"] for row in done["profiles"]] == [1.0, 1.0]
        assert done["profiles"][1]["against_first"]["ties"] == 2
        assert promoted.json() == {"profile": "one@1"}
        assert api.get(f"{BASE}/").json()["profile"] == "one@1"

    def test_of_judgements_that_name_unknown_documents_says_which(self, api):
        told = self.judge(api, "1 0 holiday 1\n1 0 nowhere 1", "trec", questions={"1": "holiday"})
        none = self.judge(api, "1 0 nowhere 1", "trec", questions={"1": "holiday"})

        assert (told.json()["imported"], told.json()["unknown_documents"]) == (1, ["nowhere"])
        assert (none.status_code, none.json()["code"]) == (400, "nothing_usable")

    def test_counts_thumbs_as_judgements(self, api):
        body = {"question": "holiday?", "document": "holiday.txt", "up": True}

        assert api.post(f"{BASE}/thumbs/", body, format="json").status_code == 204
        assert api.get(f"{BASE}/judgements/").json()["results"][0]["judgements"] == {
            "holiday.txt": 1
        }

    def test_compares_profiles_with_every_chunks_ranks(self, api):
        api.post(f"{BASE}/profiles/", {"name": "one", "settings": {"top_k": 1}}, format="json")

        found = api.post(
            f"{BASE}/compare/",
            {"query": "holiday", "profiles": ["default", "one"], "top_k": 2},
            format="json",
        ).json()

        assert len(found["columns"]) == 2
        assert found["movements"][0]["ranks"] == [1, 1]
        assert found["overlap"] == 1.0

    def test_settings_saved_again_are_no_new_version(self, api):
        for settings in ({"top_k": 3}, {"top_k": 3}, {"top_k": 4}):
            body = {"name": "p", "settings": settings}
            made = api.post(f"{BASE}/profiles/", body, format="json").json()

        assert made["version"] == 2


@pytest.fixture
def attached(transactional_db, redis, milvus, gateway):
    """A knowledge base under `smol+handbook`; the gateway, and the secret of a key."""
    user = shelf.user()
    shelf.chat()
    base = shelf.base(user)
    shelf.ingested(shelf.upload(base, user))
    made = client_of(user).post(f"{BASE}/aliases/", {"deployment": "smol"}, format="json")
    assert (made.status_code, made.json()["name"]) == (201, "smol+handbook")
    return gateway, secret_of(user)


def secret_of(user: User) -> str:
    limits = traffic.KeyLimits()
    return traffic.create_key(name="k", owner=user, limits=limits, actor="a", now=shelf.NOW)[1]


def chat(secret: str, **more):
    body = {"model": "smol+handbook", "messages": [{"role": "user", "content": "holiday days?"}]}
    return {
        "data": json.dumps({**body, **more}),
        "content_type": "application/json",
        "headers": {"authorization": f"Bearer {secret}", "x-request-id": "parent-1"},
    }


class TestAlias:
    async def test_streams_under_its_own_name_with_citations_first(self, attached):
        gateway, secret = attached

        answer = await AsyncClient().post("/rag/v1/chat/completions", **chat(secret, stream=True))
        lines = [part async for part in answer.streaming_content]

        first = json.loads(lines[0].decode()[6:])
        assert (first["model"], first["citations"][0]["document"]) == (
            "smol+handbook",
            "handbook.md",
        )
        assert lines[-1] == b"data: [DONE]\n\n"
        path, sent, headers = gateway.calls[-1]
        assert (path, sent["model"]) == ("/v1/chat/completions", "smol")
        assert "thirty days" in sent["messages"][-1]["content"]
        assert headers["x-request-id"] == "parent-1"
        assert headers["Authorization"] == f"Bearer {secret}"

    async def test_answers_whole_with_citations(self, attached):
        _, secret = attached

        answer = await AsyncClient().post("/rag/v1/chat/completions", **chat(secret))

        told = answer.json()
        assert (answer.status_code, told["model"]) == (200, "smol+handbook")
        assert told["choices"][0]["message"]["content"].startswith("Thirty days")
        assert told["citations"][0]["document"] == "handbook.md"

    async def test_an_answer_that_breaks_off_is_told_in_openais_shape(self, attached):
        gateway, secret = attached
        gateway.breaks = True

        answer = await AsyncClient().post("/rag/v1/chat/completions", **chat(secret))

        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
        assert answer["Retry-After"]

    def test_is_in_the_gateways_table_until_it_is_detached(self, attached):
        def detours():
            return queries.routing_table("", shelf.NOW).detours

        there = detours()["smol+handbook"]
        user = User.objects.get(username="ada")
        gone = client_of(user).delete(f"{BASE}/aliases/smol+handbook/")

        assert (there.deployment, there.url, there.tenant) == ("smol", "/rag", "team-default")
        assert gone.status_code == 204
        assert detours() == {}

    def test_rests_while_its_deployment_is_not_there(self, attached):
        Deployment.objects.all().delete()

        assert queries.routing_table("", shelf.NOW).detours == {}

    def test_may_be_named_by_a_key(self, attached):
        limits = traffic.KeyLimits(allowed_models=["smol+handbook"])
        user = User.objects.get(username="ada")

        key, _ = traffic.create_key(name="k", owner=user, limits=limits, actor="a", now=shelf.NOW)

        assert key.allowed_models == ["smol+handbook"]

    @pytest.mark.parametrize("name", ["handbook", "smol+handbook"], ids=["no plus", "taken"])
    def test_that_cannot_be_had_names_the_field(self, attached, name):
        order = {"deployment": "smol", "name": name}
        user = User.objects.get(username="ada")
        answer = client_of(user).post(f"{BASE}/aliases/", order, format="json")

        assert answer.status_code in (400, 409)
        assert answer.json()["detail"].startswith("name: ")

    def test_is_not_there_for_another_team_or_without_a_key(self, attached):
        stranger = secret_of(shelf.user("eve", team="other"))

        other = Client().post("/rag/v1/chat/completions", **chat(stranger))
        nobody = Client().post("/rag/v1/chat/completions", **chat("nothing"))

        assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
        assert (nobody.status_code, nobody.json()["error"]["type"]) == (401, "authentication_error")
