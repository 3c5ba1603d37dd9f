"""What the web process answers beside pages: the schema, its reference, health, wrong addresses."""

import json

import pytest
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client

from apps.fleet import queries as fleet
from tests.apps.accounts.people import make_client

pytestmark = pytest.mark.django_db


class TestSchema:
    def test_is_generated_without_a_warning(self, tmp_path):
        target = tmp_path / "schema.yml"

        call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(target))

        assert target.stat().st_size > 0

    def test_is_open_to_generators_of_clients(self):
        answer = Client().get("/api/schema", {"format": "json"})

        schema = json.loads(answer.content)
        assert "/api/v1/deployments/" in schema["paths"]
        create = schema["paths"]["/api/v1/deployments/"]["post"]
        assert "Idempotency-Key" in {row["name"] for row in create["parameters"]}
        assert "application/problem+json" in create["responses"]["default"]["content"]


class TestReference:
    def test_shows_every_operation_and_runs_no_script_of_its_own(self, settings):
        plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
        settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}
        schema = json.loads(Client().get("/api/schema", {"format": "json"}).content)
        operations = [
            op["operationId"] for item in schema["paths"].values() for op in item.values()
        ]

        page = Client().get("/api/docs").content.decode()

        assert [name for name in operations if f'id="{name}"' not in page] == []
        assert "<script>" not in page
        assert "http-equiv" not in page
        assert " style=" not in page


class TestUnknownAddress:
    @pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1/nothing/", "/api/v2/hosts/"])
    def test_answers_problem_json_to_anyone(self, path):
        answer = Client().get(path)

        assert answer.status_code == 404
        assert answer["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "not_found"

    def test_names_the_address_with_a_slash_instead_of_redirecting(self):
        answer = Client().post("/api/v1/deployments", {}, content_type="application/json")

        assert answer.status_code == 404
        assert "/api/v1/deployments/" in answer.json()["detail"]


class TestFault:
    def test_of_ours_is_problem_json_without_details(self, monkeypatch):
        def fail(*_args: object, **_options: object) -> None:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(fleet, "hosts", fail)
        client = make_client()
        client.raise_request_exception = False

        answer = client.get("/api/v1/hosts/")

        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert answer["Content-Type"] == "application/problem+json"
        assert "secret" not in answer.content.decode()

    def test_of_the_database_asks_to_try_again(self, monkeypatch):
        def fail(*_args: object, **_options: object) -> None:
            raise OperationalError("database is locked")

        monkeypatch.setattr(fleet, "hosts", fail)

        answer = make_client().get("/api/v1/hosts/")

        assert (answer.status_code, answer.json()["code"]) == (503, "database_busy")
        assert answer["Retry-After"] == "2"


class TestHealth:
    def test_lives_without_database_or_redis(self, no_redis, django_assert_num_queries):
        with django_assert_num_queries(0):
            assert Client().get("/livez").status_code == 200

    def test_is_ready_when_database_and_redis_answer(self, redis):
        answer = Client().get("/readyz")

        assert answer.status_code == 200
        assert answer.json()["checks"] == {"database": "ok", "redis": "ok"}

    def test_is_not_ready_without_redis_and_names_no_address(self, no_redis):
        answer = Client().get("/readyz")

        assert (answer.status_code, answer.json()["checks"]["redis"]) == (503, "no answer")
        assert "nonexistent" not in answer.content.decode()
