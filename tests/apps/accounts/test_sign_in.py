"""Signing in and out by the form."""

import pytest
from django.test import Client

from apps.accounts import throttle
from apps.accounts.models import User

pytestmark = pytest.mark.usefixtures("static_files")

PASSWORD = "correct horse battery"


@pytest.fixture
def ana(db, redis) -> User:
    made = User(username="ana")
    made.set_password(PASSWORD)
    made.save()
    return made


def sign_in(client: Client, password: str, **more: str):
    return client.post("/sign-in/", {"username": "ana", "password": password, **more})


def test_the_right_password_opens_the_overview(client, ana):
    assert sign_in(client, PASSWORD)["Location"] == "/"


def test_it_goes_on_to_the_page_that_was_asked_for(client, ana):
    assert sign_in(client, PASSWORD, next="/hosts/")["Location"] == "/hosts/"


def test_it_never_goes_on_to_another_site(client, ana):
    assert sign_in(client, PASSWORD, next="https://evil.example/")["Location"] == "/"


def test_a_wrong_password_is_told_without_saying_which_part_is_wrong(client, ana):
    response = sign_in(client, "wrong")

    assert response.status_code == 200
    assert b"Name or password is wrong" in response.content


def test_too_many_wrong_passwords_stop_even_the_right_one(client, ana):
    for _ in range(throttle.MOST_FAILURES):
        sign_in(client, "wrong")

    response = sign_in(client, PASSWORD)

    assert b"Try again in 15 min" in response.content
    assert not response.wsgi_request.user.is_authenticated


def test_another_address_is_not_stopped(client, ana):
    for _ in range(throttle.MOST_FAILURES):
        sign_in(client, "wrong")

    response = client.post(
        "/sign-in/", {"username": "ana", "password": PASSWORD}, REMOTE_ADDR="10.0.0.9"
    )

    assert response.status_code == 302


def test_the_right_password_forgets_the_wrong_ones(client, ana):
    for _ in range(throttle.MOST_FAILURES - 1):
        sign_in(client, "wrong")
    sign_in(client, PASSWORD)
    client.post("/sign-out/")

    sign_in(client, "wrong")

    assert sign_in(client, PASSWORD).status_code == 302


def test_signing_out_needs_a_post_and_ends_the_session(client, ana):
    sign_in(client, PASSWORD)

    assert client.get("/sign-out/").status_code == 405
    client.post("/sign-out/")
    assert client.get("/hosts/").status_code == 302
