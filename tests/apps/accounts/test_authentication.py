"""Who gets into the REST API, and with which words the others are refused."""

from datetime import timedelta

import pytest
from rest_framework.test import APIClient

from apps.accounts import actions
from apps.accounts.models import ApiToken, User
from apps.accounts.states import Role
from tests.apps.accounts.people import NOW, PASSWORD, client_of, client_with, make_user

pytestmark = pytest.mark.django_db

URL = "/api/v1/tokens/"


class TestNoToken:
    def test_is_asked_for_one_in_problem_json(self):
        answer = APIClient().get(URL)

        assert answer.status_code == 401
        assert answer["Content-Type"] == "application/problem+json"
        assert answer["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "not_authenticated"


class TestToken:
    def test_acts_as_its_user(self):
        user = make_user(username="bob", role=Role.VIEWER)

        answer = client_of(user).get(URL)

        assert [row["user"] for row in answer.json()["results"]] == ["bob"]

    @pytest.mark.parametrize("header", ["Bearer nope", "Bearer", "bearer  "])
    def test_that_is_not_known_is_refused(self, header):
        make_user()

        answer = APIClient(headers={"Authorization": header}).get(URL)

        assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")

    def test_goes_before_a_session(self):
        actions.ensure_admin(PASSWORD)
        client = APIClient(headers={"Authorization": "Bearer nope"})
        client.login(username="admin", password=PASSWORD)

        assert client.get(URL).status_code == 401

    def test_of_a_proxy_in_front_leaves_the_session_alone(self):
        actions.ensure_admin(PASSWORD)
        client = APIClient(headers={"Authorization": "Basic YWRtaW46eA=="})
        client.login(username="admin", password=PASSWORD)

        assert client.get(URL).status_code == 200

    def test_stops_when_it_expires(self):
        client = client_of(make_user())
        ApiToken.objects.update(expires_at=NOW - timedelta(days=400))

        assert "expired" in client.get(URL).json()["detail"]

    def test_stops_when_it_is_revoked(self):
        client = client_of(make_user())
        actions.revoke_token(token=ApiToken.objects.get(), actor="ada")

        assert client.get(URL).status_code == 401

    def test_stops_when_its_user_is_switched_off(self):
        client = client_of(make_user())
        User.objects.update(is_active=False)

        assert client.get(URL).status_code == 401


class TestBootstrapToken:
    def test_acts_as_the_admin_even_before_there_is_one(self, settings):
        settings.API_TOKEN = "bootstrap-secret"

        answer = client_with("bootstrap-secret").post(URL, {"name": "ci"}, format="json")

        assert answer.status_code == 201
        assert answer.json()["user"] == "admin"

    def test_that_is_not_set_lets_nobody_in(self, settings):
        settings.API_TOKEN = ""

        assert client_with("").get(URL).status_code == 401

    def test_takes_no_other_secret(self, settings):
        settings.API_TOKEN = "bootstrap-secret"

        assert client_with("bootstrap-secre").get(URL).status_code == 401
        assert client_with("bootstrap-sécret").get(URL).status_code == 401


class TestSession:
    def test_lets_a_signed_in_person_read(self):
        actions.ensure_admin(PASSWORD)
        client = APIClient()
        client.login(username="admin", password=PASSWORD)

        assert client.get(URL).status_code == 200

    def test_lets_nobody_write_without_a_csrf_token(self):
        actions.ensure_admin(PASSWORD)
        client = APIClient(enforce_csrf_checks=True)
        client.login(username="admin", password=PASSWORD)

        answer = client.post(URL, {"name": "ci"}, format="json")

        assert answer.status_code == 403
        assert "CSRF" in answer.json()["detail"]
