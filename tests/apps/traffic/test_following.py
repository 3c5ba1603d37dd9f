"""A write of a key is answered when the gateways follow it."""

import threading
import time

import pytest

from apps.lib import clock
from apps.telemetry import live
from apps.traffic import actions, queries
from gateway.wire import Live, encode
from tests.apps.traffic import world

pytestmark = pytest.mark.django_db(transaction=True)


def report(redis, revision: int, *, age_seconds: float = 0.0) -> None:
    """Let a gateway have said that it has the table `revision`."""
    body = encode(Live(gateway_id="g", started_at=1.0, seq=1, table_revision=revision))
    at = clock.now().timestamp() - age_seconds
    redis.hset("hearth:now:gateways", "g", b"%.3f\n%b" % (at, body))


def make_key() -> None:
    actions.create_key(
        name="k", owner=world.user(), limits=actions.KeyLimits(), actor="a", now=clock.now()
    )


def test_a_key_is_answered_once_the_gateway_has_it(redis):
    report(redis, 0)
    made = threading.Thread(target=make_key)
    began_at = time.monotonic()
    made.start()
    while not (queries.table_revision() and len(queries.routing_table("", clock.now()).keys)):
        assert time.monotonic() - began_at < 10
    assert made.is_alive()

    report(redis, queries.table_revision().number)

    made.join(timeout=1.0)
    assert not made.is_alive()


def test_waits_no_longer_than_it_should_for_a_gateway_that_does_not_follow(redis, monkeypatch):
    monkeypatch.setattr(actions, "FOLLOW_SECONDS", 0.1)
    report(redis, 0)

    began_at = time.monotonic()
    make_key()

    assert 0.1 <= time.monotonic() - began_at < 1.4


@pytest.mark.parametrize("age_seconds", [None, 4.0], ids=["none", "silent"])
def test_does_not_wait_for_a_gateway_that_does_not_report(redis, monkeypatch, age_seconds):
    monkeypatch.setattr(actions, "FOLLOW_SECONDS", 60)
    if age_seconds is not None:
        report(redis, 0, age_seconds=age_seconds)

    began_at = time.monotonic()
    make_key()

    assert time.monotonic() - began_at < 5


def test_does_not_wait_without_redis(no_redis):
    assert live.table_revisions(clock.now(), 3.0) == []
    make_key()
