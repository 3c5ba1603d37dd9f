"""Keys, limits and the fair queue: who may enter, who waits, who is turned away."""
# ruff: noqa: SIM117  nested, the lines stay short

import asyncio
import time

import pytest

from gateway.admission import FairQueue, Ticket
from gateway.errors import Problem
from gateway.limits import KeyUse, Reservation
from gateway.wire import KeyRoute
from tests.gateway.client import events
from tests.gateway.harness import CHAT, PATH, STREAM, gateway, key, model, table, until
from tests.gateway.upstream import Asked, answer_json, running, usage, whole_chat


def route(**limits) -> KeyRoute:
    return KeyRoute(id="k", sha256="0" * 64, **limits)


def taken(use: KeyUse, rule: KeyRoute, tokens: int, now: float) -> Reservation:
    result = use.take(rule, tokens, now)
    assert isinstance(result, Reservation)
    return result


def refused(use: KeyUse, rule: KeyRoute, tokens: int, now: float) -> Problem:
    result = use.take(rule, tokens, now)
    assert isinstance(result, Problem)
    return result


class TestKeyUse:
    def test_never_lets_more_through_than_the_limit_in_any_minute(self):
        use, rule = KeyUse(), route(rpm=3)
        let_in = []
        for now in range(200):
            result = use.take(rule, 1, float(now))
            if isinstance(result, Reservation):
                use.settle(result, 1, float(now))
                let_in.append(now)

        windows = [sum(1 for t in let_in if start <= t < start + 60) for start in range(200)]
        assert max(windows) == 3
        assert len(let_in) == 12

    def test_says_when_the_next_request_may_come(self):
        use, rule = KeyUse(), route(rpm=2)
        taken(use, rule, 1, 100.0)
        taken(use, rule, 1, 110.0)

        problem = refused(use, rule, 1, 130.0)

        assert problem.status == 429
        assert problem.retry_after_seconds == 30.0
        assert isinstance(use.take(rule, 1, 160.0), Reservation)

    def test_reserves_an_estimate_and_settles_on_what_was_used(self):
        use, rule = KeyUse(), route(tpm=100)
        held = taken(use, rule, 90, 0.0)
        refused(use, rule, 20, 1.0)
        use.settle(held, 30, 2.0)

        assert use.tokens == 30
        taken(use, rule, 70, 3.0)
        refused(use, rule, 1, 4.0)

    def test_counts_what_exceeds_the_estimate_even_after_a_minute(self):
        use, rule = KeyUse(), route(tpm=1000)
        held = taken(use, rule, 10, 0.0)

        use.settle(held, 500, 90.0)

        assert use.tokens == 490

    def test_gives_back_all_of_a_request_that_was_never_admitted(self):
        use, rule = KeyUse(), route(rpm=1, tpm=10)
        held = taken(use, rule, 10, 0.0)

        use.give_back(held, 1.0)

        assert (use.requests, use.tokens, use.in_flight) == (0, 0, 0)

    def test_settles_once(self):
        use, rule = KeyUse(), route()
        held = taken(use, rule, 10, 0.0)

        use.settle(held, 5, 1.0)
        use.settle(held, 5, 1.0)
        use.give_back(held, 1.0)

        assert (use.in_flight, use.tokens, use.requests) == (0, 5, 1)

    def test_lets_a_prompt_above_the_whole_limit_pass_alone(self):
        use, rule = KeyUse(), route(tpm=10)

        taken(use, rule, 50, 0.0)

        refused(use, rule, 1, 1.0)

    def test_limits_what_is_held_at_once(self):
        use, rule = KeyUse(), route(max_in_flight=1)
        held = taken(use, rule, 1, 0.0)

        assert refused(use, rule, 1, 0.0).code == "max_in_flight_exceeded"
        use.settle(held, 1, 1.0)
        taken(use, rule, 1, 1.0)


def ticket(key_id: str, since: float = 0.0) -> Ticket[str]:
    return Ticket(key_id, f"{key_id}-{since:g}", since)


class TestFairQueue:
    def test_takes_keys_in_turn_and_each_key_in_order(self):
        queue: FairQueue[str] = FairQueue(2000)
        for number in range(1000):
            queue.enter(ticket("busy", number))
        queue.enter(ticket("rare"))

        first = [queue.next() for _ in range(3)]

        assert [t.waiter for t in first if t] == ["busy-0", "rare-0", "busy-1"]

    def test_refuses_beyond_its_size(self):
        queue: FairQueue[str] = FairQueue(1)

        assert queue.enter(ticket("a"))
        assert not queue.enter(ticket("b"))

    def test_forgets_who_leaves(self):
        queue: FairQueue[str] = FairQueue(5)
        gone = ticket("a")
        queue.enter(gone)

        assert queue.leave(gone)
        assert not queue.leave(gone)
        assert queue.length == 0
        assert queue.next() is None

    def test_gives_up_those_who_waited_too_long(self):
        queue: FairQueue[str] = FairQueue(5)
        queue.enter(ticket("a", 0.0))
        queue.enter(ticket("a", 8.0))

        late = queue.overdue(10.0, patience_seconds=5.0)

        assert [t.since for t in late] == [0.0]
        assert queue.length == 1

    def test_promises_a_place_by_the_measured_rate(self):
        queue: FairQueue[str] = FairQueue(100)
        for tenth in range(3000):
            queue.freed(tenth / 10)
        for number in range(99):
            queue.enter(ticket("a", number))

        assert queue.retry_after_seconds(300.0) == pytest.approx(10.0, rel=0.1)


class TestKeys:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"authorization": "Bearer sk-one"}, 200),
            ({"authorization": "bearer sk-one"}, 200),
            ({"x-api-key": "sk-one"}, 200),
            ({}, 401),
            ({"authorization": "Bearer nobody"}, 401),
            ({"authorization": "Basic sk-one"}, 401),
            ({"authorization": "Bearer sk-old"}, 401),
            ({"authorization": "Bearer sk-other"}, 403),
            ({"authorization": "Bearer sk-poor"}, 429),
        ],
        ids=lambda value: str(value),
    )
    async def test_decide_who_enters(self, tmp_path, headers, status):
        keys = [
            key(),
            key("sk-old", expires_at=time.time() - 1),
            key("sk-other", models=["n"]),
            key("sk-poor", budget_exhausted=True, budget_resets_at=time.time() + 3600),
        ]
        async with running() as up, gateway(tmp_path, table({"m": model(up)}, *keys)) as gw:
            client = await gw.client()
            client.post(PATH, CHAT, None, **headers)
            answer = await client.answer()

            assert answer.status == status
            assert len(up.asked) == (status == 200)

    async def test_hear_that_their_budget_ends_and_when_it_begins_anew(self, tmp_path):
        keys = [
            key("sk-low", budget_low=True),
            key("sk-poor", budget_exhausted=True, budget_resets_at=time.time() + 3600),
        ]
        async with running() as up, gateway(tmp_path, table({"m": model(up)}, *keys)) as gw:
            low, poor = await gw.chat(key="sk-low"), await gw.chat(key="sk-poor")

            assert (low.status, low.headers["x-hearth-budget"]) == (200, "low")
            assert (poor.status, poor.error["code"]) == (429, "insufficient_quota")
            assert 3590 < int(poor.headers["retry-after"]) <= 3600

    async def test_for_a_deployment_are_good_for_its_aliases(self, tmp_path):
        keys = [key("sk-m", models=["m"]), key("sk-alias", models=["alias"])]
        async with running() as up:
            models = {"m": model(up), "alias": model(up)}
            async with gateway(tmp_path, table(models, *keys)) as gw:
                asks = [(secret, name) for secret in ("sk-m", "sk-alias") for name in models]
                answers = [await gw.chat({**CHAT, "model": m}, key=secret) for secret, m in asks]
                listing = await gw.get("/v1/models", key="sk-alias")

            assert [answer.status for answer in answers] == [200, 200, 403, 200]
            assert [entry["id"] for entry in listing.json["data"]] == ["alias"]

    async def test_are_told_which_models_they_may_use(self, tmp_path):
        keys = [key(models=["m", "n"])]
        async with running() as up:
            models = {"m": model(up), "secret": model(up) | {"deployment": "s"}}
            async with gateway(tmp_path, table(models, *keys)) as gw:
                answer = await gw.chat({**CHAT, "model": "gone"})
                listing = await gw.get("/v1/models")

                assert answer.status == 404
                assert answer.error["code"] == "model_not_found"
                assert "m." in answer.error["message"]
                assert "secret" not in answer.error["message"]
                assert [entry["id"] for entry in listing.json["data"]] == ["m"]

    async def test_over_their_requests_per_minute_hear_when_to_come_back(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)}, key(rpm=2))) as gw:
            answers = [await gw.chat() for _ in range(3)]

            assert [a.status for a in answers] == [200, 200, 429]
            assert 50 <= int(answers[2].headers["retry-after"]) <= 60
            assert answers[2].error["code"] == "rate_limit_exceeded"
            assert len(await gw.records(2)) == 2

    async def test_pay_for_the_tokens_that_were_really_used(self, tmp_path):
        async def script(asked: Asked) -> None:
            choice = {"finish_reason": "stop"}
            await answer_json(asked, {"choices": [choice], "usage": usage(400, 590)})

        async with running(script) as up:
            async with gateway(tmp_path, table({"m": model(up)}, key(tpm=1000))) as gw:
                first, second = await gw.chat(), await gw.chat()

                assert (first.status, second.status) == (200, 429)
                assert "990 used" in second.error["message"]

    async def test_may_hold_only_so_many_at_once(self, tmp_path):
        async def never(asked: Asked) -> None:
            await asyncio.Event().wait()

        async with running(never) as up:
            async with gateway(tmp_path, table({"m": model(up)}, key(max_in_flight=1))) as gw:
                client = await gw.client()
                client.post(PATH, CHAT)
                await up.wait_for(1)

                assert (await gw.chat()).status == 429
                client.close()
                await gw.records(1)


class TestQueueing:
    async def test_a_full_deployment_lets_wait_and_then_refuses(self, tmp_path):
        go_on = asyncio.Event()

        async def slow(asked: Asked) -> None:
            await go_on.wait()
            await whole_chat(asked)

        queue = {"size": 1, "timeout_seconds": 30}
        async with running(slow) as up:
            tight = model(up, max_in_flight_per_replica=1, queue=queue)
            async with gateway(tmp_path, table({"m": tight})) as gw:
                first = asyncio.create_task(gw.chat())
                await up.wait_for(1)
                second = asyncio.create_task(gw.chat())
                await until(lambda: gw.deployment.queue.length == 1)
                third = await gw.chat()
                go_on.set()

                assert third.status == 503
                assert third.error["code"] == "deployment_full"
                assert int(third.headers["retry-after"]) >= 1
                assert [(await first).status, (await second).status] == [200, 200]
                records = await gw.records(2)
                assert max(r["queue_seconds"] for r in records) > 0
                assert await gw.is_quiet()

    @pytest.mark.parametrize("value", [CHAT, STREAM], ids=["plain", "stream"])
    async def test_whose_time_runs_out_is_503_with_retry_after(self, tmp_path, value):
        async def never(asked: Asked) -> None:
            await asyncio.Event().wait()

        queue = {"size": 8, "timeout_seconds": 0.05}
        async with running(never) as up:
            tight = model(up, max_in_flight_per_replica=1, queue=queue)
            async with gateway(tmp_path, table({"m": tight})) as gw:
                holder = await gw.client()
                holder.post(PATH, CHAT)
                await up.wait_for(1)
                answer = await gw.chat(value)

                assert answer.status == 503
                assert answer.error["code"] == "queue_timeout"
                assert int(answer.headers["retry-after"]) >= 1
                holder.close()

    async def test_one_busy_key_does_not_starve_another(self, tmp_path):
        served: list[str] = []
        go_on = asyncio.Event()

        async def script(asked: Asked) -> None:
            served.append(asked.json["user"])
            await go_on.wait()
            await whole_chat(asked)

        async with running(script) as up:
            tight = model(up, max_in_flight_per_replica=1)
            keys = [key("sk-busy"), key("sk-rare")]
            async with gateway(tmp_path, table({"m": tight}, *keys)) as gw:
                busy = [
                    asyncio.create_task(gw.chat({**CHAT, "user": "busy"}, "sk-busy"))
                    for _ in range(20)
                ]
                await until(lambda: gw.deployment.queue.length == 19)
                rare = asyncio.create_task(gw.chat({**CHAT, "user": "rare"}, "sk-rare"))
                await until(lambda: gw.deployment.queue.length == 20)
                go_on.set()
                answers = await asyncio.gather(*busy, rare)

                assert {a.status for a in answers} == {200}
                assert served.index("rare") <= 2

    async def test_slots_are_ready_replicas_times_the_limit(self, tmp_path):
        async def never(asked: Asked) -> None:
            await asyncio.Event().wait()

        async with running(never) as one, running(never) as two:
            tight = model(one, two, max_in_flight_per_replica=2)
            async with gateway(tmp_path, table({"m": tight})) as gw:
                clients = [await gw.client() for _ in range(6)]
                for client in clients:
                    client.post(PATH, CHAT)
                await until(lambda: gw.deployment.queue.length == 2)

                assert (gw.replica("r1").in_flight, gw.replica("r2").in_flight) == (2, 2)
                await one.wait_for(2)
                await two.wait_for(2)
                for client in clients:
                    client.close()
                assert await gw.is_quiet()


class TestWaking:
    async def test_a_request_waits_for_the_first_replica_and_the_bell_rings(self, tmp_path):
        wake = {"phase": "fetching weights", "eta_seconds": 40}
        empty = {"deployment": "m", "wakeable": True, "wake": wake}
        async with running() as up, gateway(tmp_path, table({"m": empty})) as gw:
            pending = asyncio.create_task(gw.chat())
            also = asyncio.create_task(gw.chat())
            await until(lambda: gw.deployment.queue.length == 2)

            assert gw.core.to_wake() == ("m",)
            gw.apply(table({"m": model(up)}, revision=2))
            assert [(await pending).status, (await also).status] == [200, 200]
            assert gw.core.to_wake() == ()

    async def test_a_stream_hears_what_it_waits_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gateway.waiting.WAKING_COMFORT_SECONDS", 0.0)
        wake = {"phase": "fetching weights", "eta_seconds": 40}
        empty = {"deployment": "m", "wakeable": True, "wake": wake}
        async with running() as up, gateway(tmp_path, table({"m": empty})) as gw:
            client = await gw.client()
            client.post(PATH, STREAM)
            head = await client.head()
            comment = await client.event()
            gw.apply(table({"m": model(up)}, revision=2))
            seen = [await client.event() for _ in range(5)]

            assert head.status == 200
            assert comment == ": starting, fetching weights, about 40 s"
            assert seen[-1] == "data: [DONE]"
            assert (await gw.records(1))[0]["outcome"] == "completed"

    async def test_after_a_comment_a_refusal_is_an_event(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gateway.waiting.WAKING_COMFORT_SECONDS", 0.0)
        queue = {"timeout_seconds": 0.1, "wake_timeout_seconds": 0.1}
        empty = {"deployment": "m", "wakeable": True, "queue": queue}
        async with gateway(tmp_path, table({"m": empty})) as gw:
            answer = await gw.chat(STREAM)

            assert answer.status == 200
            assert events(answer.body)[0] == ": starting"
            assert events(answer.body)[-1].startswith("event: error\n")
            assert "[DONE]" not in answer.body.decode()
            assert await gw.is_quiet()

    async def test_an_engines_refusal_after_a_comment_is_an_event_too(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gateway.waiting.WAKING_COMFORT_SECONDS", 0.0)

        async def strict(asked: Asked) -> None:
            await answer_json(asked, {"error": {"message": "too long"}}, status=400)

        empty = {"deployment": "m", "wakeable": True}
        async with running(strict) as up, gateway(tmp_path, table({"m": empty})) as gw:
            client = await gw.client()
            client.post(PATH, STREAM)
            await client.head()
            await client.event()
            gw.apply(table({"m": model(up)}, revision=2))

            assert await client.event() == 'event: error\ndata: {"error": {"message": "too long"}}'

    async def test_without_a_control_plane_to_ring_the_queues_time_counts(self, tmp_path):
        empty = {"deployment": "m", "queue": {"timeout_seconds": 0.05}}
        async with gateway(tmp_path, table({"m": empty})) as gw:
            answer = await gw.chat()

            assert answer.status == 503
            assert "no ready replica" in answer.error["message"]
            assert gw.core.to_wake() == ()
