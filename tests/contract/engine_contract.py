"""What Hearth relies on of any engine, checked over HTTP against a running one.

`EngineContract` is a suite without an engine: a test module inherits from it and gives the
fixture `engine`. The simulator and the real vLLM pass the same checks, so what was tried with the
one holds for the other.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

COUNTERS = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_cached_total",
)
GAUGES = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
)
HISTOGRAMS = (
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:iteration_tokens_total",
)
SETTLE_SECONDS = 10.0
"""For a gauge to show what was just done."""


@dataclass(frozen=True, kw_only=True)
class EngineUnderTest:
    """A running chat engine, started with prompt token details and request id headers."""

    client: httpx.AsyncClient
    model: str
    block_tokens: int
    """Size of a KV block; prefix hits are whole blocks."""
    has_dev_mode: bool
    """Whether /sleep and /wake_up are served."""

    async def metrics(self) -> str:
        return (await self.client.get("/metrics")).raise_for_status().text

    async def value(self, name: str, label: str = "") -> float:
        return metric(await self.metrics(), name, label)

    def chat(self, content: str, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "temperature": 0, **fields}

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def answer(self, path: str, body: Any) -> dict[str, Any]:
        reply = await self.post(path, body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def events(self, path: str, body: Any) -> list[str]:
        """Return the data of each server-sent event."""
        async with self.client.stream("POST", path, json={**body, "stream": True}) as reply:
            assert reply.status_code == 200
            assert reply.headers["content-type"].startswith("text/event-stream")
            lines = [line async for line in reply.aiter_lines()]
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    async def until_running(self, wanted: int) -> None:
        """Wait until the engine shows `wanted` running requests."""
        async with asyncio.timeout(SETTLE_SECONDS):
            # The engine tells it only when asked.
            while await self.value("vllm:num_requests_running") != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def metric(text: str, name: str, label: str = "") -> float:
    """Return the sum of the series `name` whose labels contain `label`."""
    pattern = re.compile(rf"^{re.escape(name)}{{(?P<labels>[^}}]*)}} (?P<value>\S+)$", re.M)
    values = [float(it["value"]) for it in pattern.finditer(text) if label in it["labels"]]
    assert values, f"no series {name} with {label!r}"
    return sum(values)


def long_text(engine: EngineUnderTest, mark: str) -> str:
    """Return a text of more than four blocks that no other test sends."""
    words = " ".join(f"{mark} item {n} of the list." for n in range(engine.block_tokens))
    return f"{words} Count them."


class EngineContract:
    """Checks for the fixture `engine`."""

    # --- Identity -----------------------------------------------------------------------------

    async def test_a_ready_engine_is_healthy_and_says_its_version(self, engine):
        assert (await engine.client.get("/health")).status_code == 200
        assert (await engine.client.get("/version")).json()["version"].startswith("0.32")

    async def test_the_served_model_is_listed_with_its_context_length(self, engine):
        cards = (await engine.client.get("/v1/models")).json()["data"]

        assert engine.model in [card["id"] for card in cards]
        assert cards[0]["max_model_len"] > 0

    # --- Chat ---------------------------------------------------------------------------------

    async def test_a_chat_answers_whole_with_exact_usage(self, engine):
        body = engine.chat("Say something.", max_tokens=7, ignore_eos=True)

        reply = await engine.answer("/v1/chat/completions", body)

        choice, usage = reply["choices"][0], reply["usage"]
        assert reply["object"] == "chat.completion"
        assert choice["message"]["role"] == "assistant"
        assert choice["message"]["content"]
        assert choice["finish_reason"] == "length"
        assert usage["completion_tokens"] == 7
        assert usage["total_tokens"] == usage["prompt_tokens"] + 7

    async def test_a_stream_gives_the_same_text_as_the_whole_answer(self, engine):
        body = engine.chat("Say the same again.", max_tokens=12, ignore_eos=True)

        whole = await engine.answer("/v1/chat/completions", body)
        events = await engine.events("/v1/chat/completions", body)

        chunks = [json.loads(event) for event in events[:-1]]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
        assert text == whole["choices"][0]["message"]["content"]

    async def test_a_stream_begins_with_the_role_and_ends_with_reason_and_done(self, engine):
        body = engine.chat("Hello.", max_tokens=3, ignore_eos=True)

        events = await engine.events("/v1/chat/completions", body)

        chunks = [json.loads(event) for event in events[:-1]]
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert events[-1] == "[DONE]"
        assert reasons[-1] == "length"
        assert set(reasons[:-1]) == {None}
        assert all(chunk.get("usage") is None for chunk in chunks)

    async def test_usage_comes_in_a_last_chunk_without_choices_when_asked_for(self, engine):
        body = engine.chat(
            "Hello.", max_tokens=3, ignore_eos=True, stream_options={"include_usage": True}
        )

        events = await engine.events("/v1/chat/completions", body)

        chunks = [json.loads(event) for event in events[:-1]]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 3
        assert all(chunk.get("usage") is None for chunk in chunks[:-1])

    async def test_continuous_usage_counts_up_in_each_chunk(self, engine):
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = engine.chat("Hello.", max_tokens=5, ignore_eos=True, stream_options=options)

        events = await engine.events("/v1/chat/completions", body)

        counts = [json.loads(event)["usage"]["completion_tokens"] for event in events[:-1]]
        assert counts == sorted(counts)
        assert counts[-1] == 5

    async def test_a_request_id_becomes_the_answer_s_id_and_is_echoed(self, engine):
        headers = {"x-request-id": "contract-17"}
        body = engine.chat("Hello.", max_tokens=1)

        reply = await engine.client.post("/v1/chat/completions", json=body, headers=headers)

        assert reply.json()["id"] == "chatcmpl-contract-17"
        assert reply.headers["x-request-id"] == "contract-17"

    async def test_several_choices_are_numbered_and_their_tokens_add_up(self, engine):
        body = engine.chat("Hello.", max_tokens=4, ignore_eos=True, n=3, seed=1) | {
            "temperature": 1.0
        }

        reply = await engine.answer("/v1/chat/completions", body)

        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
        assert reply["usage"]["completion_tokens"] == 12

    # --- Other APIs ---------------------------------------------------------------------------

    async def test_a_completion_counts_its_prompt_as_tokenize_does(self, engine):
        prompt = "The quick brown fox jumps over the lazy dog"
        body = {"model": engine.model, "prompt": prompt}

        tokens = await engine.answer("/tokenize", body)
        reply = await engine.answer("/v1/completions", {**body, "max_tokens": 2})

        assert tokens["count"] == len(tokens["tokens"]) == reply["usage"]["prompt_tokens"]

    async def test_tokens_turn_back_into_their_text(self, engine):
        text = "A plain sentence, with a comma."
        body = {"model": engine.model, "prompt": text, "add_special_tokens": False}

        tokens = (await engine.answer("/tokenize", body))["tokens"]
        reply = await engine.answer("/detokenize", {"model": engine.model, "tokens": tokens})

        assert reply["prompt"] == text

    async def test_a_response_reports_input_and_output_tokens(self, engine):
        body = {"model": engine.model, "input": "Hello.", "max_output_tokens": 4}

        reply = await engine.answer("/v1/responses", body)

        assert reply["object"] == "response"
        assert 1 <= reply["usage"]["output_tokens"] <= 4
        assert "cached_tokens" in reply["usage"]["input_tokens_details"]

    async def test_an_anthropic_message_reports_its_usage_and_reason(self, engine):
        messages = [{"role": "user", "content": "Tell a very long story."}]
        body = {"model": engine.model, "messages": messages, "max_tokens": 4}

        reply = await engine.answer("/v1/messages", body)

        assert (reply["type"], reply["stop_reason"]) == ("message", "max_tokens")
        assert reply["usage"]["output_tokens"] == 4
        assert reply["usage"]["input_tokens"] > 0

    async def test_a_chat_engine_embeds_nothing(self, engine):
        reply = await engine.post("/v1/embeddings", {"model": engine.model, "input": "Hello."})

        assert reply.status_code == 404

    # --- Errors -------------------------------------------------------------------------------

    async def test_an_unknown_model_is_not_found(self, engine):
        reply = await engine.post(
            "/v1/chat/completions", engine.chat("Hello.") | {"model": "no-such-model"}
        )

        assert reply.status_code == reply.json()["error"]["code"] == 404
        assert "no-such-model" in reply.json()["error"]["message"]

    async def test_a_prompt_beyond_the_context_length_is_refused(self, engine):
        cards = (await engine.client.get("/v1/models")).json()["data"]
        body = engine.chat("one two three " * cards[0]["max_model_len"])

        reply = await engine.post("/v1/chat/completions", body)

        assert reply.status_code == reply.json()["error"]["code"] == 400
        assert "context length" in reply.json()["error"]["message"]

    @pytest.mark.parametrize(
        "body", [b"{", b'{"messages": 5}', b'{"messages": []}'], ids=["json", "type", "empty"]
    )
    async def test_a_bad_body_is_refused_with_a_message(self, engine, body):
        headers = {"content-type": "application/json"}
        reply = await engine.client.post("/v1/chat/completions", content=body, headers=headers)

        assert reply.status_code in (400, 422)
        assert reply.json()["error"]["message"]

    async def test_an_unknown_path_is_not_found_and_a_wrong_method_not_allowed(self, engine):
        assert (await engine.client.get("/no/such/path")).status_code == 404
        assert (await engine.client.get("/v1/chat/completions")).status_code == 405

    # --- Prefix cache -------------------------------------------------------------------------

    async def test_the_second_identical_prompt_is_cached_in_whole_blocks(self, engine):
        body = engine.chat(long_text(engine, "cached"), max_tokens=1)

        first = (await engine.answer("/v1/chat/completions", body))["usage"]
        second = (await engine.answer("/v1/chat/completions", body))["usage"]

        cached = second["prompt_tokens_details"]["cached_tokens"]
        blocks = (second["prompt_tokens"] - 1) // engine.block_tokens
        assert blocks >= 4
        assert first["prompt_tokens_details"]["cached_tokens"] <= 2 * engine.block_tokens
        assert cached == blocks * engine.block_tokens

    async def test_a_salt_keeps_a_tenant_s_prefix_to_itself(self, engine):
        body = engine.chat(long_text(engine, "salted"), max_tokens=1)

        await engine.answer("/v1/chat/completions", body | {"cache_salt": "tenant-a"})
        usage = (await engine.answer("/v1/chat/completions", body | {"cache_salt": "tenant-b"}))[
            "usage"
        ]

        assert usage["prompt_tokens_details"]["cached_tokens"] == 0

    async def test_hits_and_queries_are_counted_in_tokens(self, engine):
        body = engine.chat(long_text(engine, "counted"), max_tokens=1)
        await engine.answer("/v1/chat/completions", body)
        queries = await engine.value("vllm:prefix_cache_queries_total")
        hits = await engine.value("vllm:prefix_cache_hits_total")

        usage = (await engine.answer("/v1/chat/completions", body))["usage"]

        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert await engine.value("vllm:prefix_cache_hits_total") - hits == cached
        assert (
            await engine.value("vllm:prefix_cache_queries_total") - queries
            == usage["prompt_tokens"]
        )

    # --- Metrics ------------------------------------------------------------------------------

    async def test_metrics_carry_vllm_s_names_with_the_model_as_label(self, engine):
        await engine.answer("/v1/chat/completions", engine.chat("Hello.", max_tokens=3))

        text = await engine.metrics()

        label = f'model_name="{engine.model}"'
        for name in (*COUNTERS, *GAUGES):
            metric(text, name, label)
        for name in HISTOGRAMS:
            assert metric(text, f"{name}_count", label) > 0

    async def test_tokens_and_requests_are_counted_exactly(self, engine):
        before = await engine.metrics()

        body = engine.chat("Count me.", max_tokens=9, ignore_eos=True)
        usage = (await engine.answer("/v1/chat/completions", body))["usage"]

        after = await engine.metrics()

        def grown(name: str, label: str = "") -> float:
            return metric(after, name, label) - metric(before, name, label)

        assert grown("vllm:generation_tokens_total") == 9
        assert grown("vllm:prompt_tokens_total") == usage["prompt_tokens"]
        assert grown("vllm:request_success_total", 'finished_reason="length"') == 1
        assert grown("vllm:e2e_request_latency_seconds_count") == 1
        assert grown("vllm:inter_token_latency_seconds_count") == 8

    async def test_the_capacity_of_the_kv_cache_is_told(self, engine):
        found = re.search(
            r'^vllm:cache_config_info{.*kv_cache_size_tokens="(\d+)"', await engine.metrics(), re.M
        )

        assert found is not None
        assert int(found[1]) >= engine.block_tokens

    async def test_open_streams_show_as_running_and_go_when_their_clients_leave(self, engine):
        body = engine.chat("Go on for long.", max_tokens=1500, ignore_eos=True, stream=True)

        async with (
            engine.client.stream("POST", "/v1/chat/completions", json=body) as one,
            engine.client.stream("POST", "/v1/chat/completions", json=body) as other,
        ):
            # Kept, because an iterator that is collected closes its response.
            readers = one.aiter_bytes(), other.aiter_bytes()
            for reader in readers:
                await anext(reader)
            await engine.until_running(2)

        await engine.until_running(0)

    # --- Sleep --------------------------------------------------------------------------------

    async def test_a_sleeping_engine_holds_requests_unseen_and_answers_after_waking(self, engine):
        self._needs_dev_mode(engine)
        slept = await engine.client.post("/sleep?level=1")
        assert slept.status_code == 200
        try:
            assert (await engine.client.get("/is_sleeping")).json() == {"is_sleeping": True}
            assert (await engine.client.get("/health")).status_code == 200
            state = "vllm:engine_sleep_state"
            assert await engine.value(state, 'sleep_state="awake"') == 0
            held = asyncio.create_task(
                engine.answer("/v1/chat/completions", engine.chat("Are you there?", max_tokens=2))
            )
            done, _ = await asyncio.wait({held}, timeout=0.3)
            assert not done
            assert await engine.value("vllm:num_requests_running") == 0
            assert await engine.value("vllm:num_requests_waiting") == 0
        finally:
            await engine.client.post("/wake_up")

        reply = await asyncio.wait_for(held, SETTLE_SECONDS)
        assert reply["choices"][0]["finish_reason"]
        assert (await engine.client.get("/is_sleeping")).json() == {"is_sleeping": False}
        assert await engine.value("vllm:engine_sleep_state", 'sleep_state="awake"') == 1

    async def test_sleeping_with_abort_ends_streams_with_what_they_have(self, engine):
        self._needs_dev_mode(engine)
        body = engine.chat("Go on for long.", max_tokens=400, ignore_eos=True)
        stream = asyncio.create_task(engine.events("/v1/chat/completions", body))
        await engine.until_running(1)

        await engine.client.post("/sleep?level=0&mode=abort")
        await engine.client.post("/wake_up")

        events = await asyncio.wait_for(stream, SETTLE_SECONDS)
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "abort"

    async def test_sleep_forgets_the_prefix_cache(self, engine):
        self._needs_dev_mode(engine)
        body = engine.chat(long_text(engine, "forgotten"), max_tokens=1)
        await engine.answer("/v1/chat/completions", body)

        await engine.client.post("/sleep?level=1")
        await engine.client.post("/wake_up")

        usage = (await engine.answer("/v1/chat/completions", body))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0

    def _needs_dev_mode(self, engine: EngineUnderTest) -> None:
        if not engine.has_dev_mode:
            pytest.skip("this engine was started without its development endpoints")
