"""One request's life, told against scripted engines."""
# ruff: noqa: SIM117  nested, the lines stay short

import asyncio
import json
import os

import pytest

from gateway.settings import Deadlines
from tests.gateway.client import events
from tests.gateway.harness import CHAT, PATH, STREAM, gateway, key, model, table, until
from tests.gateway.upstream import (
    Asked,
    answer_json,
    begin_stream,
    chat_chunk,
    cut,
    end_stream,
    running,
    send_event,
    usage,
    usage_chunk,
    whole_chat,
)


class TestPlainAnswers:
    async def test_are_passed_through_with_the_replica_and_the_reason(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat()

            assert answer.status == 200
            assert answer.json["choices"][0]["message"]["content"] == "Hello there you"
            assert answer.headers["x-hearth-replica"] == "r1"
            assert answer.headers["x-hearth-route"].startswith("only;")
            assert answer.headers["x-request-id"] == up.asked[0].headers["x-request-id"]
            assert up.asked[0].headers["host"] == "replica"
            assert "authorization" not in up.asked[0].headers
            assert up.asked[0].json == CHAT

    async def test_leave_one_record_with_the_engines_counts(self, tmp_path):
        async def script(asked: Asked) -> None:
            details = {"reasoning_tokens": 4}
            counts = usage(20, 7, cached=16) | {"completion_tokens_details": details}
            choice = {"finish_reason": "stop", "message": {"content": "x"}}
            await answer_json(asked, {"choices": [choice], "usage": counts})

        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat(x_request_id="mine-7")
            (record,) = await gw.records(1)

            assert record["id"] == answer.headers["x-request-id"]
            assert record["parent_id"] == "mine-7"
            assert record["outcome"] == "completed"
            assert record["status"] == 200
            assert (record["prompt_tokens"], record["cached_tokens"]) == (20, 16)
            assert (record["output_tokens"], record["reasoning_tokens"]) == (7, 4)
            assert record["bytes_out"] == len(answer.body)
            assert "estimated" not in record
            assert await gw.is_quiet()

    async def test_an_engines_own_refusal_is_passed_on(self, tmp_path):
        async def script(asked: Asked) -> None:
            await answer_json(asked, {"error": {"message": "too long", "code": 400}}, status=400)

        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat()
            (record,) = await gw.records(1)

            assert answer.status == 400
            assert answer.error["message"] == "too long"
            assert (record["outcome"], record["status"]) == ("failed", 400)

    async def test_a_large_answer_is_passed_on_before_it_is_whole(self, tmp_path):
        go_on = asyncio.Event()

        async def script(asked: Asked) -> None:
            tail = json.dumps({"usage": {"prompt_tokens": 5, "total_tokens": 5}}).encode()[1:]
            head = b'{"data":"' + b"x" * 2_000_000
            length = len(head) + 3 + len(tail)
            asked.writer.write(
                b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % length
            )
            asked.writer.write(head)
            await go_on.wait()
            asked.writer.write(b'", ' + tail)

        embed = {"model": "m", "input": ["a"]}
        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.post("/v1/embeddings", embed)
            head = await client.head()
            go_on.set()
            body = b"".join([piece async for piece in client.chunks()])
            (record,) = await gw.records(1)

            assert head.status == 200
            assert len(json.loads(body)["data"]) == 2_000_000
            assert record["prompt_tokens"] == 5

    async def test_a_refused_key_of_ours_is_not_shown_as_the_clients(self, tmp_path):
        async def script(asked: Asked) -> None:
            await answer_json(asked, {"error": "Unauthorized"}, status=401)

        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat()

            assert answer.status == 502
            assert answer.error["code"] == "engine_failed"

    async def test_go_over_a_unix_socket_and_with_the_replicas_key(self, tmp_path):
        from tests.gateway.upstream import Upstream  # noqa: PLC0415

        up = Upstream()
        await up.start(unix=tmp_path / "v.sock")
        replica = {"id": "r1", "url": up.url, "api_key": "inner"}
        async with gateway(tmp_path, table({"m": model(replica)})) as gw:
            answer = await gw.chat()

            assert answer.status == 200
            assert up.asked[0].headers["authorization"] == "Bearer inner"
        await up.stop()


class TestStreams:
    async def test_lose_the_usage_chunk_that_the_client_did_not_ask_for(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat(STREAM)
            (record,) = await gw.records(1)

            assert up.asked[0].json["stream_options"] == {"include_usage": True}
            assert "usage" not in answer.body.decode()
            assert events(answer.body)[-1] == "data: [DONE]"
            assert len(events(answer.body)) == 5
            assert (record["prompt_tokens"], record["output_tokens"]) == (9, 3)
            assert record["ttft_seconds"] > 0

    async def test_keep_the_usage_chunk_that_the_client_asked_for(self, tmp_path):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat({**STREAM, "stream_options": {"include_usage": True}})

            assert json.loads(events(answer.body)[-2][6:])["usage"]["prompt_tokens"] == 9

    @pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
    async def test_are_counted_however_the_client_writes_no(self, tmp_path, options):
        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat({**STREAM, "stream_options": options})
            (record,) = await gw.records(1)

            assert "usage" not in answer.body.decode()
            assert record["output_tokens"] == 3
            assert "estimated" not in record

    async def test_running_usage_is_taken_out_of_every_chunk(self, tmp_path):
        async def script(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("a") | {"usage": usage(9, 1)})
            await send_event(asked, chat_chunk("b", "stop") | {"usage": usage(9, 2)})
            await send_event(asked, usage_chunk(9, 2))
            await send_event(asked, "[DONE]")
            await end_stream(asked)

        route = lambda up: model(up, exact_usage=True)  # noqa: E731
        async with running(script) as up, gateway(tmp_path, table({"m": route(up)})) as gw:
            answer = await gw.chat(STREAM)

            options = up.asked[0].json["stream_options"]
            assert options == {"include_usage": True, "continuous_usage_stats": True}
            assert "usage" not in answer.body.decode()
            assert len(events(answer.body)) == 3

    async def test_that_break_end_in_an_error_and_never_in_done(self, tmp_path):
        async def script(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("one"))
            await send_event(asked, chat_chunk("two"))
            cut(asked)

        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat(STREAM)
            (record,) = await gw.records(1)

            last = events(answer.body)[-1]
            assert last.startswith("event: error\ndata: ")
            assert json.loads(last.split("data: ")[1])["error"]["code"] == "engine_failed"
            assert "[DONE]" not in answer.body.decode()
            assert record["outcome"] == "failed"
            assert record["estimated"] is True
            assert record["output_tokens"] == 2
            assert record["prompt_tokens"] > 0
            assert await gw.is_quiet()

    async def test_of_a_dying_engine_are_not_complete_in_spite_of_done(self, tmp_path):
        async def script(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("one"))
            await send_event(
                asked, {"error": {"message": "EngineCore died at 10.0.0.7", "code": 500}}
            )
            await send_event(asked, "[DONE]")
            await end_stream(asked)

        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat(STREAM)
            (record,) = await gw.records(1)

            text = answer.body.decode()
            assert "event: error" in text
            assert "[DONE]" not in text
            assert "10.0.0.7" not in text
            assert record["outcome"] == "failed"

    async def test_that_end_without_a_finish_reason_are_not_complete(self, tmp_path):
        async def script(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("one"))
            await send_event(asked, "[DONE]")
            await end_stream(asked)

        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            answer = await gw.chat(STREAM)

            assert "event: error" in answer.body.decode()
            assert "[DONE]" not in answer.body.decode()

    async def test_reach_the_client_piece_by_piece(self, tmp_path):
        go_on = asyncio.Event()

        async def script(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("one"))
            await go_on.wait()
            await send_event(asked, chat_chunk("", "stop"))
            await send_event(asked, "[DONE]")
            await end_stream(asked)

        async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.post("/v1/chat/completions", STREAM)
            await client.head()
            first = await client.event()
            assert gw.deployment.tally.in_flight == 1
            assert gw.replica().streams == 1
            go_on.set()

            assert '"one"' in first
            assert '"stop"' in await client.event()
            assert await client.event() == "data: [DONE]"


class TestRetries:
    async def test_move_to_another_replica_before_the_first_byte(self, tmp_path):
        async def broken(asked: Asked) -> None:
            await answer_json(asked, {"error": {"message": "secret address"}}, status=500)

        async with running(broken) as bad, running() as good:
            route = model(bad, good, policy="round-robin")
            async with gateway(tmp_path, table({"m": route})) as gw:
                answers = [await gw.chat(STREAM), await gw.chat()]
                records = await gw.records(2)

                assert [a.status for a in answers] == [200, 200]
                assert [r["replica"] for r in records] == ["r2", "r2"]
                assert sum(r.get("retries", 0) for r in records) == 1
                first_try = bad.asked[0].headers["x-request-id"]
                assert first_try in {a.headers["x-request-id"] for a in answers}

    async def test_follow_a_connection_that_closes_without_an_answer(self, tmp_path):
        async def silent(asked: Asked) -> None:
            cut(asked)

        async with running(silent) as bad, running() as good:
            route = model(bad, good, policy="round-robin")
            async with gateway(tmp_path, table({"m": route})) as gw:
                answers = [await gw.chat(), await gw.chat()]

                assert [a.status for a in answers] == [200, 200]

    async def test_end_after_two(self, tmp_path):
        async def broken(asked: Asked) -> None:
            await answer_json(asked, {}, status=500)

        async with running(broken) as a, running(broken) as b, running(broken) as c:
            async with running(broken) as d:
                async with gateway(tmp_path, table({"m": model(a, b, c, d)})) as gw:
                    answer = await gw.chat()
                    (record,) = await gw.records(1)

                    assert answer.status == 502
                    assert record["retries"] == 2
                    assert sum(len(up.asked) for up in (a, b, c, d)) == 3

    async def test_never_follow_the_first_byte(self, tmp_path):
        async def half(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("one"))
            cut(asked)

        async with running(half) as a, running(half) as b:
            async with gateway(tmp_path, table({"m": model(a, b)})) as gw:
                await gw.chat(STREAM)

                assert len(a.asked) + len(b.asked) == 1

    async def test_save_a_plain_answer_that_breaks_halfway(self, tmp_path):
        async def half(asked: Asked) -> None:
            asked.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
            await asked.writer.drain()
            cut(asked)

        async with running(half) as bad, running() as good:
            route = model(bad, good, policy="round-robin")
            async with gateway(tmp_path, table({"m": route})) as gw:
                answers = [await gw.chat(), await gw.chat()]

                assert [a.status for a in answers] == [200, 200]

    async def test_replace_an_answer_that_the_engine_aborted_to_sleep(self, tmp_path):
        async def asleep(asked: Asked) -> None:
            choice = {"finish_reason": "abort", "message": {"content": "par"}}
            await answer_json(asked, {"choices": [choice], "usage": usage()})

        async with running(asleep) as bad, running() as good:
            route = model(bad, good, policy="round-robin")
            async with gateway(tmp_path, table({"m": route})) as gw:
                answers = [await gw.chat(), await gw.chat()]

                texts = [a.json["choices"][0]["message"]["content"] for a in answers]
                assert texts == ["Hello there you"] * 2

    async def test_a_dead_idle_connection_costs_no_retry(self, tmp_path):
        async def once(asked: Asked) -> None:
            await whole_chat(asked)
            asked.writer.close()

        async with running(once) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            for _ in range(3):
                assert (await gw.chat()).status == 200
            records = await gw.records(3)

            assert [r.get("retries", 0) for r in records] == [0, 0, 0]
            assert not gw.replica().breaker.is_open

    async def test_a_request_never_sent_waits_for_its_replica_to_come_back(self, tmp_path):
        from tests.gateway.upstream import Upstream  # noqa: PLC0415

        up = Upstream()
        await up.start()
        port = up.port
        await up.stop()
        replica = {"id": "r1", "url": f"http://127.0.0.1:{port}"}
        async with gateway(tmp_path, table({"m": model(replica)})) as gw:
            pending = asyncio.create_task(gw.chat())
            await until(lambda: gw.deployment.queue.length == 1)
            gw.replica().breaker.probe_at = 0.0
            await up.start(port=port)

            assert (await pending).status == 200
            assert gw.replica().breaker.is_slow(asyncio.get_running_loop().time())
            await up.stop()


class TestDepartures:
    async def test_a_client_that_leaves_takes_its_request_off_the_engine(self, tmp_path):
        async def endless(asked: Asked) -> None:
            await begin_stream(asked)
            while True:
                await send_event(asked, chat_chunk("more"))
                await asyncio.sleep(0.005)

        async with running(endless) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.post("/v1/chat/completions", STREAM)
            await client.head()
            await client.event()
            client.close()
            async with asyncio.timeout(1):
                await up.asked[0].gone.wait()
            (record,) = await gw.records(1)

            assert record["outcome"] == "client_aborted"
            assert record["estimated"] is True
            assert record["output_tokens"] >= 1
            assert await gw.is_quiet()

    async def test_one_that_leaves_before_the_answer_began_too(self, tmp_path):
        async def never(asked: Asked) -> None:
            await asyncio.Event().wait()

        async with running(never) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.post("/v1/chat/completions", CHAT)
            await up.wait_for(1)
            client.close()
            async with asyncio.timeout(1):
                await up.asked[0].gone.wait()
            (record,) = await gw.records(1)

            assert record["outcome"] == "client_aborted"
            assert await gw.is_quiet()

    async def test_one_that_leaves_the_queue_leaves_no_record(self, tmp_path):
        async def never(asked: Asked) -> None:
            await asyncio.Event().wait()

        route = lambda up: model(up, max_in_flight_per_replica=1)  # noqa: E731
        async with running(never) as up, gateway(tmp_path, table({"m": route(up)})) as gw:
            first, second = await gw.client(), await gw.client()
            first.post("/v1/chat/completions", CHAT)
            await up.wait_for(1)
            second.post("/v1/chat/completions", CHAT)
            await until(lambda: gw.deployment.queue.length == 1)
            second.close()
            await until(lambda: gw.deployment.queue.length == 0)
            first.close()

            assert len(await gw.records(1)) == 1
            assert await gw.is_quiet()

    async def test_a_slow_reader_holds_the_engine_back(self, tmp_path):
        sent = 0

        async def flood(asked: Asked) -> None:
            nonlocal sent
            await begin_stream(asked)
            while True:
                await send_event(asked, chat_chunk("x" * 10_000))
                sent += 10_000

        async with running(flood) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            client = await gw.client()
            client.post("/v1/chat/completions", STREAM)
            await client.head()
            client.writer.transport.pause_reading()
            await until(lambda: next(iter(gw.app.clients)).is_paused)
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.05)

            assert sent < 32_000_000
            client.close()
            assert len(await gw.records(1)) == 1

    async def test_a_reader_that_never_reads_is_given_up(self, tmp_path):
        from gateway.settings import Limits  # noqa: PLC0415

        async def flood(asked: Asked) -> None:
            await begin_stream(asked)
            while True:
                await send_event(asked, chat_chunk("x" * 10_000))

        limits = Limits(stalled_reader_seconds=0.1)
        async with running(flood) as up:
            async with gateway(tmp_path, table({"m": model(up)}), limits=limits) as gw:
                client = await gw.client()
                client.post("/v1/chat/completions", STREAM)
                await client.head()
                client.writer.transport.pause_reading()
                (record,) = await gw.records(1)

                assert record["outcome"] == "client_aborted"
                client.close()


class TestSilence:
    async def test_a_replica_that_stops_answering_is_ejected_and_its_requests_move(self, tmp_path):
        async def frozen(asked: Asked) -> None:
            await asyncio.Event().wait()

        deadlines = Deadlines(silence_seconds=0.05, probe_seconds=0.1)
        async with running(frozen) as bad, running() as good:
            route = model(bad, good, policy="round-robin")
            async with gateway(tmp_path, table({"m": route}), deadlines=deadlines) as gw:
                answers = [await gw.chat(), await gw.chat()]

                assert [a.status for a in answers] == [200, 200]
                assert gw.replica("r1").breaker.is_open
                assert [r.id for r in gw.deployment.usable] == ["r2"]

    async def test_a_replica_that_nobody_reads_from_is_not_silent(self, tmp_path):
        """All its streams wait for clients that do not read: it cannot send a byte."""

        async def flood(asked: Asked) -> None:
            if asked.path == "/health":
                await asyncio.Event().wait()  # so busy that it would not answer in time
            await begin_stream(asked)
            while True:
                await send_event(asked, chat_chunk("x" * 10_000))

        deadlines = Deadlines(silence_seconds=0.05, probe_seconds=0.05)
        async with running(flood) as up:
            async with gateway(tmp_path, table({"m": model(up)}), deadlines=deadlines) as gw:
                client = await gw.client()
                client.post(PATH, STREAM)
                await client.head()
                client.writer.transport.pause_reading()
                await until(lambda: next(iter(gw.app.clients)).is_paused)
                await asyncio.sleep(0.3)

                assert not gw.replica().breaker.is_open
                assert gw.replica().in_flight == 1
                client.close()
                await gw.records(1)

    async def test_it_is_probed_back_in(self, tmp_path):
        thawed = asyncio.Event()

        async def frozen(asked: Asked) -> None:
            await thawed.wait()
            await whole_chat(asked)

        deadlines = Deadlines(silence_seconds=0.05, probe_seconds=0.05)
        async with running(frozen) as up:
            async with gateway(tmp_path, table({"m": model(up)}), deadlines=deadlines) as gw:
                lost = asyncio.create_task(gw.chat())
                await until(lambda: gw.replica().breaker.is_open)
                thawed.set()
                gw.replica().breaker.probe_at = 0.0
                await until(lambda: not gw.replica().breaker.is_open)

                assert (await lost).status == 502
                assert (await gw.chat()).status == 200

    async def test_a_healthy_replica_may_think_for_long(self, tmp_path):
        async def thinking(asked: Asked) -> None:
            if asked.path != "/health":
                await asyncio.sleep(0.3)
            await whole_chat(asked)

        deadlines = Deadlines(silence_seconds=0.05, probe_seconds=1.0)
        async with running(thinking) as up:
            async with gateway(tmp_path, table({"m": model(up)}), deadlines=deadlines) as gw:
                answer = await gw.chat()

                assert answer.status == 200
                assert any(asked.path == "/health" for asked in up.asked)

    async def test_an_answer_that_never_begins_ends_in_504(self, tmp_path):
        async def never(asked: Asked) -> None:
            await asyncio.Event().wait()

        deadlines = Deadlines(first_byte_seconds=0.1)
        async with running(never) as up:
            async with gateway(tmp_path, table({"m": model(up)}), deadlines=deadlines) as gw:
                answer = await gw.chat()

                assert answer.status == 504

    async def test_a_stream_that_stands_still_ends_in_an_error(self, tmp_path):
        async def stuck(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("one"))
            await asyncio.Event().wait()

        deadlines = Deadlines(idle_seconds=0.1)
        async with running(stuck) as up:
            async with gateway(tmp_path, table({"m": model(up)}), deadlines=deadlines) as gw:
                answer = await gw.chat(STREAM)

                assert "event: error" in answer.body.decode()

    async def test_requests_move_away_from_a_replica_that_fell_asleep(self, tmp_path):
        async def asleep(asked: Asked) -> None:
            await asyncio.Event().wait()

        async with running(asleep) as bad, running() as good:
            first = {"id": "r1", "url": bad.url}
            async with gateway(tmp_path, table({"m": model(first)})) as gw:
                pending = asyncio.create_task(gw.chat())
                await bad.wait_for(1)
                sleeping = {**first, "state": "asleep"}
                awake = {"id": "r2", "url": good.url}
                gw.apply(table({"m": model(sleeping, awake)}, revision=2))

                assert (await pending).headers["x-hearth-replica"] == "r2"


class TestDisk:
    async def test_a_full_disk_refuses_new_requests_and_keeps_every_record(
        self, tmp_path, monkeypatch
    ):
        """Usage that cannot be written is kept; nothing more is taken in until it is."""
        monkeypatch.setattr("gateway.spool.RETRY_SECONDS", 0.01)
        real, is_full = os.write, True

        def write(descriptor: int, data: bytes) -> int:
            return real(descriptor, data[:40] if is_full and b'"id"' in data else data)

        async with running() as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            monkeypatch.setattr(os, "write", write)
            served = await gw.chat()
            await until(lambda: not gw.core.spool.is_accepting)
            refused, ready = await gw.chat(), await gw.get("/readyz")
            is_full = False
            await until(lambda: gw.core.spool.is_accepting)
            again = await gw.chat()
            records = await gw.records(2)

            assert [a.status for a in (served, refused, ready, again)] == [200, 503, 503, 200]
            assert (refused.error["code"], refused.headers["retry-after"]) == ("spool_full", "5")
            assert len(up.asked) == len(records) == 2


class TestTables:
    async def test_a_draining_replica_finishes_and_takes_nothing_new(self, tmp_path):
        go_on = asyncio.Event()

        async def slow(asked: Asked) -> None:
            await go_on.wait()
            await whole_chat(asked)

        async with running(slow) as old, running() as new:
            first = {"id": "r1", "url": old.url}
            second = {"id": "r2", "url": new.url}
            async with gateway(tmp_path, table({"m": model(first)})) as gw:
                pending = asyncio.create_task(gw.chat())
                await old.wait_for(1)
                draining = {**first, "state": "draining"}
                gw.apply(table({"m": model(draining, second)}, revision=2))
                later = [await gw.chat() for _ in range(3)]
                go_on.set()

                assert {a.headers["x-hearth-replica"] for a in later} == {"r2"}
                assert (await pending).headers["x-hearth-replica"] == "r1"

    async def test_a_removed_replica_finishes_what_it_holds(self, tmp_path):
        go_on = asyncio.Event()

        async def slow(asked: Asked) -> None:
            await go_on.wait()
            await whole_chat(asked)

        async with running(slow) as old, running() as new:
            async with gateway(tmp_path, table({"m": model(old)})) as gw:
                pending = asyncio.create_task(gw.chat())
                await old.wait_for(1)
                second = {"id": "r2", "url": new.url}
                gw.apply(table({"m": model(second)}, revision=2))
                go_on.set()

                assert (await pending).status == 200
                assert await gw.is_quiet()

    async def test_an_alias_reaches_the_engine_under_its_own_name(self, tmp_path):
        async with running() as up:
            models = {"m": model(up), "alias": model(up, upstream_name="served")}
            async with gateway(tmp_path, table(models)) as gw:
                answer = await gw.chat({**CHAT, "model": "alias"})

                assert answer.status == 200
                assert up.asked[0].json["model"] == "served"

    async def test_tenants_get_cache_salts_of_their_own(self, tmp_path):
        keys = [key("sk-a", tenant="a"), key("sk-b", tenant="b"), key("sk-c")]
        async with running() as up, gateway(tmp_path, table({"m": model(up)}, *keys)) as gw:
            for secret in ("sk-a", "sk-b", "sk-c"):
                await gw.chat(key=secret)
            guess = up.asked[0].json["cache_salt"]
            await gw.chat({**CHAT, "cache_salt": guess}, key="sk-b")

            salts = [asked.json.get("cache_salt") for asked in up.asked]
            assert len(set(salts)) == 4
            assert salts[2] is None
