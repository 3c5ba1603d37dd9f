"""A model name that another program answers, as a knowledge base does, by calling back."""
# ruff: noqa: SIM117  nested, the lines stay short

import asyncio
import json

import pytest

from gateway.settings import Deadlines
from gateway.table import TableError, parse
from tests.gateway.client import Client, ask, fetch
from tests.gateway.harness import CHAT, PATH, gateway, key, model, table, until
from tests.gateway.upstream import (
    Asked,
    answer_json,
    begin_stream,
    chat_chunk,
    cut,
    running,
    send_event,
)

NAME = "m+handbook"
ASKED = {**CHAT, "model": NAME}


def with_detour(up, program, *keys, **fields) -> dict:
    """A deployment `m`, and `program` in front of it as `m+handbook`."""
    url = program if isinstance(program, str) else f"{program.url}/rag"
    detour = {"deployment": "m", "url": url, "created_at": 7, **fields}
    return {**table({"m": model(up)}, *keys), "detours": {NAME: detour}}


async def names(gw, secret: str) -> list[str]:
    return [row["id"] for row in (await gw.get("/v1/models", secret)).json["data"]]


class CallsBack:
    """Answers as the web process does: asks the gateway for `m`, with the caller's key and id."""

    def __init__(self) -> None:
        self.port = 0

    async def __call__(self, asked: Asked) -> None:
        secret = asked.headers["authorization"].removeprefix("Bearer ")
        inner = {**asked.json, "model": "m"}
        client = await Client.connect(self.port)
        client.post(PATH, inner, secret, x_request_id=asked.headers["x-request-id"])
        answer = await client.answer()
        client.close()
        kind = answer.headers["content-type"]
        head = f"HTTP/1.1 {answer.status} X\r\ncontent-type: {kind}\r\nx-hearth-replica: r1\r\n"
        length = f"content-length: {len(answer.body)}\r\n\r\n"
        asked.writer.write((head + length).encode() + answer.body)
        await asked.writer.drain()


class TestDetour:
    @pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
    async def test_leaves_the_slot_and_the_record_to_the_call_that_it_leads_to(
        self, tmp_path, stream
    ):
        program = CallsBack()
        # One request at once: were the outer one counted, the inner one would be refused.
        narrow = key(max_in_flight=1, rpm=1)
        async with running() as up, running(program) as web:
            async with gateway(tmp_path, with_detour(up, web, narrow)) as gw:
                program.port = gw.port
                answer = await gw.chat({**ASKED, "stream": stream}, x_request_id="mine")
                (record,) = await gw.records(1)

                assert answer.status == 200
                assert b"Hello" in answer.body
                assert (b"[DONE]" in answer.body) is stream
                assert answer.headers["x-hearth-replica"] == "r1"
                assert record["model"] == "m"
                assert record["parent_id"] == answer.headers["x-request-id"]
                assert web.asked[0].path == "/rag/v1/chat/completions"
                assert web.asked[0].json == {**ASKED, "stream": stream}
                assert await gw.is_quiet()
                assert gw.core.detours.open == 0

    async def test_is_streamed_through_as_it_comes(self, tmp_path):
        go_on = asyncio.Event()

        async def program(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("first"))
            await go_on.wait()
            cut(asked)

        async with running() as up, running(program) as web:
            async with gateway(tmp_path, with_detour(up, web)) as gw:
                client = await gw.client()
                client.post(PATH, {**ASKED, "stream": True})
                await client.head()
                assert "first" in await client.event()

                go_on.set()
                last = await client.event()
                end = [piece async for piece in client.chunks()]

        assert last.startswith("event: error")
        assert end == []

    async def test_ends_at_the_program_when_the_client_goes(self, tmp_path):
        gone = asyncio.Event()

        async def program(asked: Asked) -> None:
            await asked.gone.wait()
            gone.set()

        async with running() as up, running(program) as web:
            async with gateway(tmp_path, with_detour(up, web)) as gw:
                client = await gw.client()
                client.post(PATH, ASKED)
                await web.wait_for(1)
                client.close()

                await asyncio.wait_for(gone.wait(), 5)
                await until(lambda: not gw.core.open)
                assert gw.core.detours.open == 0


class TestKeys:
    async def test_decide_as_for_the_deployment_and_the_team(self, tmp_path):
        keys = [
            key("sk-any", tenant="team-a"),
            key("sk-behind", tenant="team-a", models=["m"]),
            key("sk-name", tenant="team-a", models=[NAME]),
            key("sk-other", tenant="team-a", models=["x"]),
            key("sk-stranger", tenant="team-b"),
            key("sk-spent", tenant="team-a", budget_exhausted=True),
        ]
        async with running() as up, running() as web:
            served = with_detour(up, web, *keys, tenant="team-a")
            async with gateway(tmp_path, served) as gw:
                secrets = ("any", "behind", "name", "other", "stranger", "spent")
                answers = {s: (await gw.chat(ASKED, key=f"sk-{s}")).status for s in secrets}
                listed = {s: NAME in await names(gw, f"sk-{s}") for s in secrets[:5]}
                nobody = await gw.chat(ASKED, key=None)

        assert answers == {
            "any": 200, "behind": 200, "name": 200, "other": 403, "stranger": 404, "spent": 429,
        }  # fmt: skip
        assert listed == {
            "any": True, "behind": True, "name": True, "other": False, "stranger": False,
        }  # fmt: skip
        assert nobody.status == 401
        assert len(web.asked) == 3

    async def test_over_their_limit_are_refused_before_the_program_is_asked(self, tmp_path):
        async with running() as up, running() as web:
            async with gateway(tmp_path, with_detour(up, web, key(rpm=1))) as gw:
                await gw.chat()
                answer = await gw.chat(ASKED)

        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
        assert web.asked == []

    async def test_get_chats_only(self, tmp_path):
        async with running() as up, running() as web:
            async with gateway(tmp_path, with_detour(up, web)) as gw:
                answer = await ask(gw.port, "/v1/embeddings", {"model": NAME, "input": "x"})
                one = await fetch(gw.port, f"/v1/models/{NAME}")

        assert answer.status == 400
        assert "/v1/chat/completions" in answer.error["message"]
        assert (one.json["id"], one.json["created"]) == (NAME, 7)


class TestProgramAway:
    async def test_costs_the_detour_alone(self, tmp_path):
        async with running() as up:
            served = with_detour(up, "http://127.0.0.1:9")
            async with gateway(tmp_path, served) as gw:
                away, direct = await gw.chat(ASKED), await gw.chat()

        assert (away.status, away.error["code"]) == (503, "control_plane_away")
        assert away.headers["retry-after"] == "5"
        assert direct.status == 200

    async def test_is_known_from_the_control_planes_silence(self, tmp_path):
        async def program(asked: Asked) -> None:
            await asked.gone.wait()

        async with running() as up, running(program) as web:
            served = with_detour(up, "/rag")
            async with gateway(tmp_path, served, control_plane=web.url) as gw:
                waiting = asyncio.create_task(gw.chat(ASKED))
                await web.wait_for(1)
                gw.core.detours.home_at -= 60
                while_waiting, at_once = await waiting, await gw.chat(ASKED)

        assert (while_waiting.status, at_once.status) == (503, 503)
        assert len(web.asked) == 1

    async def test_words_of_its_own_are_not_shown(self, tmp_path):
        async def program(asked: Asked) -> None:
            body = b"<h1>Traceback of 10.0.0.7</h1>"
            head = b"HTTP/1.1 500 X\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n"
            asked.writer.write(head % len(body) + body)

        async with running() as up, running(program) as web:
            async with gateway(tmp_path, with_detour(up, web)) as gw:
                answer = await gw.chat(ASKED)

        assert answer.status == 502
        assert b"10.0.0.7" not in answer.body

    async def test_refusals_are_passed_on(self, tmp_path):
        async def program(asked: Asked) -> None:
            await answer_json(asked, {"error": {"message": "away"}}, status=503)

        async with running() as up, running(program) as web:
            async with gateway(tmp_path, with_detour(up, web)) as gw:
                answer = await gw.chat(ASKED)

        assert (answer.status, answer.error["message"]) == (503, "away")

    async def test_silence_beyond_the_deadline_is_told(self, tmp_path):
        async def program(asked: Asked) -> None:
            await asked.gone.wait()

        deadlines = Deadlines(first_byte_seconds=0.05)
        async with running() as up, running(program) as web:
            async with gateway(tmp_path, with_detour(up, web), deadlines=deadlines) as gw:
                answer = await gw.chat(ASKED)

        assert answer.status == 504

    async def test_a_stop_ends_what_waits(self, tmp_path):
        async def program(asked: Asked) -> None:
            await asked.gone.wait()

        async with running() as up, running(program) as web:
            async with gateway(tmp_path, with_detour(up, web)) as gw:
                waiting = asyncio.create_task(gw.chat(ASKED))
                await web.wait_for(1)
                for request in list(gw.core.open):
                    request.stop()
                answer = await waiting

        assert (answer.status, answer.error["code"]) == (503, "stopping")


class TestTable:
    async def test_a_deployment_of_the_same_name_comes_first(self, tmp_path):
        async with running() as up, running() as web:
            served = with_detour(up, web)
            served["models"][NAME] = served["models"]["m"]
            async with gateway(tmp_path, served) as gw:
                answer = await gw.chat(ASKED)

        assert answer.status == 200
        assert (len(up.asked), len(web.asked)) == (1, 0)

    def test_a_wrong_address_is_named(self):
        wrong = json.dumps({"revision": 1, "detours": {"a+b": {"deployment": "a", "url": "ftp:x"}}})

        with pytest.raises(TableError, match=r"detours\['a\+b'\]\.url"):
            parse(wrong.encode())
