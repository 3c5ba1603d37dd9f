"""The catalog over REST."""

import pytest
from rest_framework.test import APIClient

from apps.accounts.models import User
from apps.catalog import catalog

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    client = APIClient()
    client.force_authenticate(User.objects.create_user(username="viewer", password="x"))
    return client


@pytest.fixture
def own(tmp_path, settings):
    """Return the folder of operators' files of an installation of its own."""
    settings.DATA_DIR = tmp_path
    (tmp_path / "catalog").mkdir()
    catalog.installed.cache_clear()
    yield tmp_path / "catalog"
    catalog.installed.cache_clear()


class TestEntryList:
    def test_answers_pages_by_name(self, api):
        first = api.get("/api/v1/catalog/", {"page_size": 5}).json()

        assert first["count"] >= 24
        assert len(first["results"]) == 5
        assert "page=2" in first["next"]
        second = api.get(first["next"]).json()
        assert not {e["slug"] for e in first["results"]} & {e["slug"] for e in second["results"]}

    def test_words_and_task_narrow_the_list(self, api):
        found = api.get("/api/v1/catalog/", {"q": "minilm", "task": "embed"}).json()

        (entry,) = found["results"]
        assert entry["slug"] == "all-minilm-l6-v2"
        assert entry["licence"]["name"] == "Apache-2.0"
        assert entry["variants"][0]["devices"] == ["cpu", "cuda"]

    def test_a_task_that_does_not_exist_is_refused(self, api):
        answer = api.get("/api/v1/catalog/", {"task": "sing"})

        assert answer.status_code == 400
        assert "give one of chat, embed, rerank" in answer.json()["detail"]

    def test_asks_the_database_nothing(self, api, django_assert_num_queries):
        with django_assert_num_queries(0):
            api.get("/api/v1/catalog/")

    def test_needs_a_signed_in_user(self):
        assert APIClient().get("/api/v1/catalog/").status_code in {401, 403}


class TestEntryDetail:
    def test_answers_sources_shape_and_the_settings_of_each_device(self, api):
        entry = api.get("/api/v1/catalog/smollm2-135m-instruct/").json()

        variant = entry["variants"][0]
        assert variant["sources"][0]["convert"] == "gguf"
        assert variant["shape"]["kv_heads"] == 3
        assert variant["kv_bytes_per_token"] == 23_040
        cpu = variant["device_settings"][0]
        assert cpu["engine"]["kv_cache_bytes"] == 128 * 1024**2
        assert cpu["engine"]["omp_threads"] == 1

    def test_an_unknown_slug_is_a_404_with_near_names(self, api):
        answer = api.get("/api/v1/catalog/smollm2-135m/")

        assert answer.status_code == 404
        assert answer["Content-Type"] == "application/problem+json"
        body = answer.json()
        assert body["code"] == "unknown_entry"
        assert body["near"][0] == "smollm2-135m-instruct"


class TestFileProblemList:
    def test_lists_mistakes_in_operators_files(self, api, own):
        (own / "ours.yaml").write_text("slug: ours\nnam: Ours\n")

        (problem,) = api.get("/api/v1/catalog-problems/").json()["results"]

        assert problem == {
            "file": "ours.yaml",
            "line": 2,
            "field": "nam",
            "message": "is not a known field: did you mean `name`?",
        }
