"""The real `openai` and `anthropic` Python clients, unchanged, through the gateway.

Engines are simulators, or scripted where one must call tools or break.
"""
# ruff: noqa: SIM117  nested, the lines stay short

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anthropic
import openai
import pytest

from tests.gateway.harness import Harness, gateway, key, model, table, until
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
)
from tests.simulator_host import MODEL, Simulator
from tests.simulator_host import running as simulating

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"name": "weather", "arguments": '{"city": "Oslo"}'}


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> Iterator[Simulator]:
    with simulating(tmp_path_factory.mktemp("chat")) as one:
        yield one


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Iterator[Simulator]:
    with simulating(tmp_path_factory.mktemp("embed"), "--task=embed") as one:
        yield one


def served(simulator: Simulator, **fields: object) -> dict:
    replica = {"id": "r1", "url": f"unix:{simulator.socket}"}
    return model(replica, upstream_name=MODEL, **fields)


@pytest.fixture
async def gw(tmp_path, chats, vectors) -> AsyncIterator[Harness]:
    models = {"m": served(chats), "e": served(vectors, deployment="e", task="embed")}
    limited = key("sk-tight", rpm=1)
    async with gateway(tmp_path, table(models, key(), limited)) as one:
        yield one


def of_openai(gw: Harness, secret: str = "sk-one") -> openai.AsyncOpenAI:
    base = f"http://127.0.0.1:{gw.port}/v1"
    return openai.AsyncOpenAI(api_key=secret, base_url=base, max_retries=0)


def of_anthropic(gw: Harness, secret: str = "sk-one") -> anthropic.AsyncAnthropic:
    base = f"http://127.0.0.1:{gw.port}"
    return anthropic.AsyncAnthropic(api_key=secret, base_url=base, max_retries=0)


@asynccontextmanager
async def scripted(tmp_path, script) -> AsyncIterator[Harness]:
    async with running(script) as up, gateway(tmp_path, table({"m": model(up)})) as one:
        yield one


class TestOpenAi:
    async def test_chats(self, gw):
        async with of_openai(gw) as client:
            chat = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=8)

        assert chat.choices[0].message.content
        assert chat.choices[0].finish_reason == "length"
        assert chat.usage.completion_tokens == 8
        [record] = await gw.records(1)
        assert record["output_tokens"] == 8
        assert record["prompt_tokens"] == chat.usage.prompt_tokens

    async def test_streams_the_text_that_a_plain_answer_has(self, gw):
        async with of_openai(gw) as client:
            ask = {"model": "m", "messages": HELLO, "max_tokens": 8}
            plain = await client.chat.completions.create(**ask)
            stream = await client.chat.completions.create(**ask, stream=True)
            chunks = [chunk async for chunk in stream]

        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == plain.choices[0].message.content
        assert all(chunk.usage is None for chunk in chunks)
        assert [record["output_tokens"] for record in await gw.records(2)] == [8, 8]

    async def test_gets_the_usage_it_asks_for_in_a_stream(self, gw):
        ask = {"model": "m", "messages": HELLO, "max_tokens": 8, "stream": True}
        async with of_openai(gw) as client:
            stream = await client.chat.completions.create(
                **ask, stream_options={"include_usage": True}
            )
            *_, last = [chunk async for chunk in stream]

        assert last.choices == []
        assert last.usage.completion_tokens == 8

    async def test_completes_and_embeds(self, gw):
        async with of_openai(gw) as client:
            completion = await client.completions.create(model="m", prompt="Once", max_tokens=4)
            answer = await client.embeddings.create(model="e", input=["one", "two"])

        assert completion.choices[0].text
        assert [len(one.embedding) > 0 for one in answer.data] == [True, True]
        assert answer.usage.prompt_tokens > 0

    async def test_gets_responses_plain_and_streamed(self, gw):
        async with of_openai(gw) as client:
            whole = await client.responses.create(model="m", input="Hello?", max_output_tokens=8)
            async with client.responses.stream(
                model="m", input="Hello?", max_output_tokens=8
            ) as stream:
                kinds = [event.type async for event in stream]

        assert whole.output_text
        assert whole.usage.output_tokens == 8
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.incomplete"
        assert [r["outcome"] for r in await gw.records(2)] == ["completed", "completed"]

    async def test_lists_the_models_of_its_key(self, gw):
        async with of_openai(gw) as client:
            names = [one.id async for one in client.models.list()]

        assert names == ["e", "m"]

    async def test_works_without_asyncio(self, gw):
        def chat() -> str | None:
            base = f"http://127.0.0.1:{gw.port}/v1"
            with openai.OpenAI(api_key="sk-one", base_url=base) as client:
                ask = {"model": "m", "messages": HELLO, "max_tokens": 4}
                text = "".join(
                    chunk.choices[0].delta.content or ""
                    for chunk in client.chat.completions.create(**ask, stream=True)
                )
                plain = client.chat.completions.create(**ask)
                assert plain.choices[0].message.content == text
                return text

        assert await asyncio.to_thread(chat)

    async def test_calls_tools_plain_and_streamed(self, tmp_path):
        async with scripted(tmp_path, calls_a_tool) as gw, of_openai(gw) as client:
            ask = {"model": "m", "messages": HELLO, "tools": [TOOL]}
            plain = await client.chat.completions.create(**ask)
            async with client.chat.completions.stream(**ask) as stream:
                streamed = await stream.get_final_completion()

        for answer in (plain, streamed):
            [call] = answer.choices[0].message.tool_calls
            assert (call.function.name, call.function.arguments) == tuple(CALL.values())
            assert answer.choices[0].finish_reason == "tool_calls"

    async def test_raises_its_own_errors(self, gw):
        async with of_openai(gw) as client, of_openai(gw, "sk-no") as stranger:
            ask = {"messages": HELLO, "max_tokens": 1}
            with pytest.raises(openai.AuthenticationError):
                await stranger.chat.completions.create(model="m", **ask)
            with pytest.raises(openai.NotFoundError, match="may use: e, m") as unknown:
                await client.chat.completions.create(model="gpt-9", **ask)
            with pytest.raises(openai.BadRequestError, match="messages"):
                await client.chat.completions.create(model="m", messages=[])

        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")

    async def test_hears_when_a_limit_lets_it_in_again(self, gw):
        async with of_openai(gw, "sk-tight") as client:
            ask = {"model": "m", "messages": HELLO, "max_tokens": 1}
            await client.chat.completions.create(**ask)
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(**ask)

        assert 0 < int(refused.value.response.headers["retry-after"]) <= 60

    async def test_hears_that_a_stream_broke(self, tmp_path):
        async with scripted(tmp_path, breaks) as gw, of_openai(gw) as client:
            stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            first = await anext(stream)
            with pytest.raises(openai.APIError, match="failed before its answer was whole"):
                await anext(stream)

        assert first.choices[0].delta.content == "one"

    async def test_that_is_cancelled_takes_its_request_off_the_engine(self, tmp_path):
        async with running(never_ends) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            async with of_openai(gw) as client:
                task = asyncio.create_task(read_all(client))
                [asked] = await up.wait_for(1)
                task.cancel()
                await asyncio.wait([task])

                await asyncio.wait_for(asked.gone.wait(), 1)
                assert await gw.is_quiet()
            [record] = await gw.records(1)

        assert record["outcome"] == "client_aborted"


class TestAnthropic:
    async def test_gets_messages(self, gw):
        async with of_anthropic(gw) as client:
            message = await client.messages.create(model="m", messages=HELLO, max_tokens=8)

        assert message.content[0].text
        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 8
        [record] = await gw.records(1)
        assert (record["output_tokens"], record["path"]) == (8, "/v1/messages")

    async def test_streams_and_counts(self, gw):
        async with of_anthropic(gw) as client:
            async with client.messages.stream(model="m", messages=HELLO, max_tokens=8) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                whole = await stream.get_final_message()
            count = await client.messages.count_tokens(model="m", messages=HELLO)

        assert whole.content[0].text == text
        assert whole.usage.output_tokens == 8
        assert count.input_tokens > 0
        records = await gw.records(2)
        assert [r["outcome"] for r in records] == ["completed", "completed"]

    async def test_calls_tools(self, tmp_path):
        tool = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}
        async with scripted(tmp_path, uses_a_tool) as gw, of_anthropic(gw) as client:
            async with client.messages.stream(
                model="m", messages=HELLO, max_tokens=99, tools=[tool]
            ) as stream:
                message = await stream.get_final_message()
            [record] = await gw.records(1)

        [call] = message.content
        assert (call.type, call.name, call.input) == ("tool_use", "weather", {"city": "Oslo"})
        assert (record["outcome"], record["output_tokens"]) == ("completed", 7)

    async def test_raises_its_own_errors(self, gw):
        async with of_anthropic(gw) as client, of_anthropic(gw, "sk-no") as stranger:
            ask = {"messages": HELLO, "max_tokens": 1}
            with pytest.raises(anthropic.AuthenticationError):
                await stranger.messages.create(model="m", **ask)
            with pytest.raises(anthropic.NotFoundError) as unknown:
                await client.messages.create(model="claude-9", **ask)

        assert unknown.value.body["error"]["type"] == "not_found_error"

    async def test_hears_that_a_stream_broke(self, tmp_path):
        async with scripted(tmp_path, breaks_a_message) as gw, of_anthropic(gw) as client:
            with pytest.raises(anthropic.APIStatusError, match="failed before its answer"):
                async with client.messages.stream(
                    model="m", messages=HELLO, max_tokens=9
                ) as stream:
                    await stream.get_final_message()
            [record] = await gw.records(1)

        assert record["outcome"] == "failed"

    async def test_that_is_cancelled_takes_its_request_off_the_engine(self, tmp_path):
        async with running(never_answers) as up, gateway(tmp_path, table({"m": model(up)})) as gw:
            async with of_anthropic(gw) as client:
                task = asyncio.create_task(
                    client.messages.create(model="m", messages=HELLO, max_tokens=9)
                )
                [asked] = await up.wait_for(1)
                task.cancel()
                await asyncio.wait([task])

                await asyncio.wait_for(asked.gone.wait(), 1)
                await until(lambda: not gw.core.open)


# --- Scripts ------------------------------------------------------------------------------------


async def read_all(client: openai.AsyncOpenAI) -> None:
    async for _ in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
        pass


async def never_ends(asked: Asked) -> None:
    await begin_stream(asked)
    while not asked.gone.is_set():
        await send_event(asked, chat_chunk("more"))
        await asyncio.sleep(0.01)


async def never_answers(asked: Asked) -> None:
    await asked.gone.wait()


async def breaks(asked: Asked) -> None:
    await begin_stream(asked)
    await send_event(asked, chat_chunk("one"))
    await asyncio.sleep(0.02)
    cut(asked)


async def calls_a_tool(asked: Asked) -> None:
    call = {"id": "call_1", "type": "function", "function": CALL}
    if not asked.json.get("stream"):
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        await answer_json(asked, {"id": "c", "choices": [choice], "usage": usage()})
        return
    await begin_stream(asked)
    chunk = chat_chunk("")
    chunk["choices"][0]["delta"] = {"role": "assistant", "tool_calls": [{"index": 0, **call}]}
    await send_event(asked, chunk)
    end = chat_chunk("", "tool_calls")
    end["choices"][0]["delta"] = {}
    await send_event(asked, end)
    await send_event(asked, "[DONE]")
    await end_stream(asked)


async def _message_event(asked: Asked, kind: str, **fields: object) -> None:
    data = f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
    asked.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await asked.writer.drain()


async def _begin_message(asked: Asked) -> None:
    await begin_stream(asked)
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 0}}  # fmt: skip
    await _message_event(asked, "message_start", message=head)


async def uses_a_tool(asked: Asked) -> None:
    await _begin_message(asked)
    block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    await _message_event(asked, "content_block_start", index=0, content_block=block)
    for part in ('{"city":', ' "Oslo"}'):
        delta = {"type": "input_json_delta", "partial_json": part}
        await _message_event(asked, "content_block_delta", index=0, delta=delta)
    await _message_event(asked, "content_block_stop", index=0)
    await _message_event(
        asked,
        "message_delta",
        delta={"stop_reason": "tool_use", "stop_sequence": None},
        usage={"output_tokens": 7},
    )
    await _message_event(asked, "message_stop")
    await end_stream(asked)


async def breaks_a_message(asked: Asked) -> None:
    await _begin_message(asked)
    await asyncio.sleep(0.02)
    cut(asked)
