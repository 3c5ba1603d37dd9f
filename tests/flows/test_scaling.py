"""Scaling with every part real but the engine: a burst, zero and back, a controller that dies."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime

import httpx
import pytest

from tests.running import Hearth, wait_until

pytestmark = pytest.mark.timeout(300)

SMOL = "smollm2-135m-instruct"


def scaling_decisions(instance: Hearth, name: str) -> list[dict]:
    rows = instance.api("GET", f"deployments/{name}/decisions/").json()["results"]
    return [row for row in rows if row["kind"] == "scaling"]


@contextmanager
def open_streams(client: httpx.Client, model: str, count: int) -> Iterator[None]:
    """Hold `count` streams open."""
    body = {"model": model, "stream": True, "max_tokens": 2000, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "a long story"}]
    with ExitStack() as held:
        for _ in range(count):
            answer = held.enter_context(client.stream("POST", "/v1/chat/completions", json=body))
            assert answer.status_code == 200
        yield


@contextmanager
def deployed(instance: Hearth, name: str, **scaling: object) -> Iterator[str]:
    instance.deploy(SMOL, name=name, scaling=scaling)
    instance.wait_for(name, "ready", 60)
    yield name
    instance.api("DELETE", f"deployments/{name}/")


def in_phase(instance: Hearth, name: str, phase: str) -> dict | None:
    """Return a replica of that phase, None if there is none."""
    rows = instance.api("GET", f"deployments/{name}/replicas/").json()["results"]
    return next((row for row in rows if row["phase"] == phase), None)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class TestBurst:
    def test_a_step_of_demand_is_decided_and_ordered_while_it_lasts(self, simulated, client):
        with deployed(simulated, "burst", max_replicas=3, target_concurrency=2) as name:
            with open_streams(client, name, 8):
                stepped = time.time()
                wait_until(lambda: scaling_decisions(simulated, name), 10, "a decision")
                (first, *_) = reversed(scaling_decisions(simulated, name))
                wait_until(
                    lambda: simulated.deployment(name)["ready_replicas"] == 3, 60, "three ready"
                )
                self.controller_dies_and_keeps_what_is_there(simulated, name)

            assert seconds(first["created_at"]) - stepped < 5
            assert first["inputs"]["wanted"] > first["inputs"]["was"]
            assert first["inputs"]["observations"]["in_flight"] > 0
            events = simulated.api("GET", f"deployments/{name}/events/").json()["results"]
            assert any(event["kind"] == "deployment.scaled" for event in events)

    def controller_dies_and_keeps_what_is_there(self, simulated, name):
        old = simulated.child("reconcile")
        old.kill()
        simulated.new_child("reconcile", old.pid, timeout_seconds=20)
        until = time.monotonic() + 6

        while time.monotonic() < until:
            found = simulated.deployment(name)
            assert (found["wanted_replicas"], found["ready_replicas"]) == (3, 3)


class TestZero:
    def test_to_zero_and_back_for_a_request_that_waits_with_comments(self, simulated, client):
        zero = {"min_replicas": 0, "max_replicas": 1, "scale_to_zero_after_seconds": 10}
        with deployed(simulated, "sleeper", **zero) as name:
            simulated.wait_for(name, "asleep", 40)
            assert simulated.deployment(name)["wanted_replicas"] == 0
            body = {"model": name, "stream": True, "max_tokens": 8}
            body["messages"] = [{"role": "user", "content": "wake up"}]

            began = time.monotonic()
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                lines = list(answer.iter_lines())
            took = time.monotonic() - began

            assert answer.status_code == 200
            assert "data: [DONE]" in lines
            assert any(line.startswith(": starting") for line in lines), lines
            assert took < 30
            reasons = [row["reason"] for row in scaling_decisions(simulated, name)]
            assert any("no request for" in reason for reason in reasons)
            assert any("a request waits and nothing serves" in reason for reason in reasons)
            simulated.wait_for(name, "asleep", 60)

    def test_many_that_wait_at_once_start_one_replica_and_all_are_answered(self, simulated, client):
        zero = {"min_replicas": 0, "max_replicas": 1, "scale_to_zero_after_seconds": 10}
        with deployed(simulated, "herd", **zero) as name:
            simulated.wait_for(name, "asleep", 40)
            statuses: list[int] = []

            def ask() -> None:
                body = {"model": name, "max_tokens": 4}
                body["messages"] = [{"role": "user", "content": "hello"}]
                answer = client.post("/v1/chat/completions", json=body)
                statuses.append(answer.status_code)

            threads = [threading.Thread(target=ask) for _ in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

            assert statuses == [200] * 12
            replicas = simulated.api("GET", f"deployments/{name}/replicas/?stopped=true").json()
            assert replicas["count"] == 2


class TestWake:
    def test_demand_wakes_the_sleeper_rather_than_start_another(self, simulated, client):
        scaling = {"max_replicas": 2, "target_concurrency": 2, "asleep_replicas": 1}
        with deployed(simulated, "napper", **scaling) as name:
            sleeper = wait_until(lambda: in_phase(simulated, name, "asleep"), 60, "a sleeper")
            assert sleeper["nap"]["residual_bytes"] < sleeper["nap"]["held_bytes"] / 2
            with open_streams(client, name, 8):
                began = time.monotonic()
                wait_until(
                    lambda: simulated.deployment(name)["ready_replicas"] == 2, 30, "two ready"
                )
                took = time.monotonic() - began

            assert took < 10
            newest = simulated.api("GET", f"deployments/{name}/starts/").json()["results"][0]
            assert (newest["replica"], newest["rung"]) == (sleeper["id"], "asleep")
            assert newest["stages"][0]["stage"] == "wake"
            claims = simulated.api("GET", "pool/").json()["claims"]
            assert (claims[0]["deployment"], claims[0]["replica"]) == (name, sleeper["id"])


class TestRefused:
    def test_a_minimum_above_the_maximum_names_the_field(self, simulated):
        answer = simulated.api(
            "POST",
            "deployments/",
            json={"catalog": SMOL, "scaling": {"min_replicas": 3, "max_replicas": 2}},
        )

        assert answer.status_code == 400
        assert answer.json()["field"] == "scaling.min_replicas"
