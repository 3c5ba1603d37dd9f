"""`Idempotency-Key`: a write that is sent twice happens once."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory, force_authenticate

from apps.accounts.idempotency import CLAIM_LIFE, KEPT_FOR, IdempotentWrites
from apps.accounts.models import ApiToken, RememberedAnswer, User
from apps.accounts.states import Role
from apps.lib import clock
from tests.apps.accounts.people import client_of, make_client, make_user

pytestmark = pytest.mark.django_db

URL = "/api/v1/tokens/"


def made() -> int:
    return ApiToken.objects.filter(name="ci").count()


def post(client, key: str, name: str = "ci"):
    return client.post(URL, {"name": name}, format="json", headers={"Idempotency-Key": key})


class TestRepeat:
    def test_answers_the_same_and_writes_once(self):
        client = make_client()

        first, again = post(client, "k-1"), post(client, "k-1")

        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert again["Idempotency-Replayed"] == "true"
        assert made() == 1

    def test_keeps_no_secret_that_the_database_could_tell(self):
        secret = post(make_client(), "k-1").json()["token"]

        assert secret not in str(RememberedAnswer.objects.values())

    def test_cannot_be_answered_under_another_secret_key(self, settings):
        client = make_client()
        post(client, "k-1")
        settings.SECRET_KEY = "another"

        answer = post(client, "k-1")

        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_spent")
        assert made() == 1

    def test_repeats_an_error_too(self):
        client = make_client()

        first, again = post(client, "k-1", name=""), post(client, "k-1", name="")

        assert (first.status_code, again.status_code) == (400, 400)
        assert again["Content-Type"] == "application/problem+json"
        assert again.json() == first.json()

    def test_with_another_key_writes_again(self):
        client = make_client()

        assert post(client, "k-1").json()["id"] != post(client, "k-2").json()["id"]

    def test_without_a_key_writes_again(self):
        client = make_client()
        for _ in range(2):
            client.post(URL, {"name": "ci"}, format="json")

        assert made() == 2

    def test_with_another_body_is_refused(self):
        client = make_client()
        post(client, "k-1")

        answer = post(client, "k-1", name="other")

        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")

    def test_of_another_user_is_another_write(self):
        ours, theirs = (client_of(make_user(username=name)) for name in ("ada", "bob"))

        assert post(ours, "k-1").json()["user"] == "ada"
        assert post(theirs, "k-1").json()["user"] == "bob"

    def test_after_a_day_writes_again(self):
        client = make_client()
        post(client, "k-1")
        RememberedAnswer.objects.update(created_at=clock.now() - KEPT_FOR - timedelta(seconds=1))

        post(client, "k-1")

        assert made() == 2

    @pytest.mark.parametrize("key", ["", "x" * 256, "käse", "a\tb"], ids=repr)
    def test_refuses_a_key_that_is_none(self, key):
        answer = post(make_client(), key)

        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_invalid")
        assert made() == 0

    def test_does_not_remember_who_was_not_allowed(self):
        viewer = make_client(Role.VIEWER)
        refused = viewer.post(
            "/api/v1/users/", {"username": "x"}, format="json", headers={"Idempotency-Key": "k"}
        )

        assert refused.status_code == 403
        assert not RememberedAnswer.objects.exists()


class TestWhileTheFirstIsAtWork:
    def claim(self, client, **columns) -> RememberedAnswer:
        """Leave the claim of a request that has not finished."""
        post(client, "k-1")
        ApiToken.objects.filter(name="ci").delete()
        RememberedAnswer.objects.update(status=None, body=None, **columns)
        return RememberedAnswer.objects.get()

    def test_asks_to_try_again(self):
        client = make_client()
        self.claim(client)

        answer = post(client, "k-1")

        assert (answer.status_code, answer.json()["code"]) == (409, "request_in_progress")
        assert answer["Retry-After"] == "1"
        assert made() == 0

    def test_takes_over_from_a_process_that_died(self):
        client = make_client()
        self.claim(client, created_at=clock.now() - CLAIM_LIFE - timedelta(seconds=1))

        assert post(client, "k-1").status_code == 201
        assert post(client, "k-1")["Idempotency-Replayed"] == "true"
        assert made() == 1


class Fragile(IdempotentWrites):
    """Makes a user, then does what the test says."""

    required_role = {"POST": Role.VIEWER}

    def post(self, request):
        User.objects.create(username=f"made-{User.objects.count()}")
        self.then()
        return Response({}, status=201)


def send(then) -> Response:
    request = APIRequestFactory().post("/x", {}, headers={"Idempotency-Key": "k"})
    force_authenticate(request, User.objects.get(username="ada"))
    return Fragile.as_view(then=staticmethod(then))(request)


Fragile.then = staticmethod(lambda: None)


@pytest.mark.django_db(transaction=True)
class TestCrash:
    def test_leaves_neither_write_nor_claim_and_lets_the_caller_try_again(self):
        make_user()

        with pytest.raises(ZeroDivisionError):
            send(lambda: 1 / 0)

        assert User.objects.count() == 1
        assert send(lambda: None).status_code == 201

    def test_undoes_the_write_of_one_whose_claim_was_taken_over(self):
        make_user()

        def taken_over() -> None:
            RememberedAnswer.objects.update(created_at=clock.now() + timedelta(seconds=1))

        answer = send(taken_over)

        assert (answer.status_code, answer.data["code"]) == (409, "request_in_progress")
        assert User.objects.count() == 1

    def test_two_at_once_write_once(self):
        make_user()
        start, statuses = threading.Barrier(2), []

        def run() -> None:
            start.wait(timeout=10)
            statuses.append(send(lambda: None).status_code)
            connection.close()

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)

        assert User.objects.count() == 2
        assert 201 in statuses
        assert set(statuses) <= {201, 409}
