"""The life of the simulator process: load, drain, crash, sleep, faults."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.contract.engine_contract import EngineUnderTest
from tests.simulator_host import MODEL, launched, running

CHAT = "/v1/chat/completions"
SLOW = "--decode-seconds-per-token=0.02"


def chat(max_tokens=4, **fields):
    messages = [{"role": "user", "content": "Hello."}]
    return {"model": MODEL, "messages": messages, "max_tokens": max_tokens} | {
        "ignore_eos": True,
        **fields,
    }


def engine_of(client):
    return EngineUnderTest(client=client, model=MODEL, block_tokens=16, has_dev_mode=True)


async def open_stream(client, max_tokens):
    """Begin a stream and return its response after the first event."""
    request = client.build_request("POST", CHAT, json=chat(max_tokens, stream=True))
    response = await client.send(request, stream=True)
    lines = response.aiter_lines()
    await anext(lines)
    return lines


async def rest_of(lines):
    return [line.removeprefix("data: ") async for line in lines if line]


class TestLoading:
    def test_nothing_listens_before_the_model_is_loaded(self, tmp_path):
        with launched(tmp_path, "--load-seconds=1000") as simulator:
            simulator.wait_for_line("no model is computed")

            assert not simulator.socket.exists()

    def test_the_log_tells_the_stages_in_vllm_s_words(self, tmp_path):
        with running(tmp_path, "--load-seconds=0.2", "--kv-cache-tokens=160000") as simulator:
            words = (
                f"Starting to load model {MODEL}...",
                "Loading weights took 0.09 seconds",
                "torch.compile took 0.03 s in total",
                "Graph capturing finished in 0.02 secs",
                "GPU KV cache size: 160,000 tokens",
                "init engine (simulated) took 0.01 seconds",
            )
            places = [simulator.log.find(line) for line in words]

        assert -1 not in places
        assert places == sorted(places)

    async def test_sigterm_while_loading_ends_it_at_once(self, tmp_path):
        with launched(tmp_path, "--load-seconds=1000") as simulator:
            simulator.wait_for_line("no model is computed")
            simulator.process.terminate()

            assert await simulator.exit_code() == 0

    async def test_a_busy_address_is_an_error_with_code_1(self, tmp_path):
        (tmp_path / "engine.sock").write_text("not a socket")
        with launched(tmp_path, "--load-seconds=0") as simulator:
            assert await simulator.exit_code() == 1
            assert "the simulator cannot start: " in simulator.log

    @pytest.mark.parametrize(
        ("flag", "says"),
        [
            ("--fail=explode", "unknown fault 'explode'"),
            ("--max-num-seqs=0", "must be 1 or more, not 0"),
            ("--decode-seconds-per-token=0", "must be above 0"),
            ("--max-model-len=200000", "does not fit into --kv-cache-tokens 100000"),
            ("--no-such-flag", "unrecognized arguments"),
        ],
    )
    def test_a_bad_flag_ends_it_with_code_2_and_a_reason(self, flag, says):
        argv = [sys.executable, "-m", "agents.simulator", "--served-model-name", "m", flag]

        ended = subprocess.run(argv, capture_output=True, text=True, timeout=10)

        assert ended.returncode == 2
        assert says in ended.stderr


class TestDrain:
    async def test_streams_complete_and_new_requests_get_500(self, tmp_path):
        with running(tmp_path, SLOW, "--shutdown-timeout=20") as simulator:
            async with simulator.client() as client:
                lines = await open_stream(client, max_tokens=60)
                simulator.process.terminate()
                simulator.wait_for_line("Shutting down: 1 requests in flight")

                refused = await client.post(CHAT, json=chat())
                health = await client.get("/health")
                events = await rest_of(lines)

            assert refused.status_code == 500
            assert "cannot schedule new futures after shutdown" in refused.text
            assert health.status_code == 200
            assert events[-1] == "[DONE]"
            assert await simulator.exit_code() == 0

    async def test_after_the_timeout_it_leaves_with_streams_cut(self, tmp_path):
        with running(tmp_path, SLOW, "--shutdown-timeout=0.1") as simulator:
            async with simulator.client() as client:
                lines = await open_stream(client, max_tokens=10_000)
                simulator.process.terminate()

                with pytest.raises(httpx.RemoteProtocolError):
                    await rest_of(lines)

            assert await simulator.exit_code() == 0

    async def test_without_a_timeout_open_streams_hang_until_their_clients_leave(self, tmp_path):
        with running(tmp_path, SLOW) as simulator:
            async with simulator.client() as client:
                lines = await open_stream(client, max_tokens=10_000)
                simulator.process.terminate()
                simulator.wait_for_line("Shutting down")

                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await rest_of(lines)
                assert simulator.process.poll() is None

            assert await simulator.exit_code() == 0


class TestFaults:
    async def test_exit_at_start_gives_its_code(self, tmp_path):
        with launched(tmp_path, "--fail=exit_at_start:3") as simulator:
            assert await simulator.exit_code() == 3

    async def test_hang_at_start_never_listens(self, tmp_path):
        with launched(tmp_path, "--load-seconds=0", "--fail=hang_at_start") as simulator:
            simulator.wait_for_line("Starting to load model")

            assert not simulator.socket.exists()
            assert simulator.process.poll() is None

    async def test_a_crash_gives_an_error_chunk_then_done_then_503_then_exit_code_0(self, tmp_path):
        with running(tmp_path, "--fail=crash_after_requests:2") as simulator:
            async with simulator.client() as client:
                served = await client.post(CHAT, json=chat())
                whole = asyncio.create_task(client.post(CHAT, json=chat(20_000)))
                await engine_of(client).until_running(1)
                events = await rest_of(await open_stream(client, max_tokens=100))
                health = await client.get("/health")

            assert served.status_code == 200
            assert json.loads(events[-2])["error"]["code"] == 500
            assert events[-1] == "[DONE]"
            assert (await whole).status_code == 500
            assert health.status_code == 503
            assert await simulator.exit_code() == 0

    async def test_a_kill_cuts_streams_without_done(self, tmp_path):
        with running(tmp_path, "--fail=kill_after_requests:0") as simulator:
            async with simulator.client() as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    await rest_of(await open_stream(client, max_tokens=100))

            assert await simulator.exit_code() == -signal.SIGKILL

    async def test_a_cut_ends_one_stream_and_the_next_one_is_whole(self, tmp_path):
        with running(tmp_path, "--fail=cut_after_requests:0") as simulator:
            async with simulator.client() as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    await rest_of(await open_stream(client, max_tokens=100))
                events = await rest_of(await open_stream(client, max_tokens=10))

        assert events[-1] == "[DONE]"

    async def test_a_hung_engine_is_healthy_and_answers_nothing(self, tmp_path):
        with running(tmp_path, "--fail=hang_after_requests:0") as simulator:
            async with simulator.client() as client:
                with pytest.raises(httpx.ReadTimeout):
                    await client.post(CHAT, json=chat(), timeout=0.3)

                assert (await client.get("/health")).status_code == 200

    async def test_readiness_probes_are_not_counted(self, tmp_path):
        with running(tmp_path, "--fail=error_after_requests:1") as simulator:
            async with simulator.client() as client:
                probe = {"x-request-id": "hearth-probe"}
                statuses = [
                    (await client.post(CHAT, json=chat(), headers=headers)).status_code
                    for headers in (probe, probe, {}, {}, probe)
                ]

        assert statuses == [200, 200, 200, 500, 200]


class TestSleep:
    async def test_sleeping_frees_memory_and_waking_takes_it_again(self, tmp_path):
        size = 100 * 1024 * 1024
        with running(tmp_path, f"--memory-bytes={size}") as simulator:
            process = psutil.Process(simulator.process.pid)
            awake = process.memory_info().rss
            async with simulator.client() as client:
                await client.post("/sleep?level=1")
                asleep = process.memory_info().rss
                await client.post("/wake_up")
                again = process.memory_info().rss

        assert awake - asleep == pytest.approx(size, rel=0.05)
        assert again - asleep == pytest.approx(size, rel=0.05)

    async def test_sleep_with_wait_answers_once_all_is_done(self, tmp_path):
        with running(tmp_path) as simulator:
            async with simulator.client() as client:
                lines = await open_stream(client, max_tokens=100)

                await client.post("/sleep?level=1&mode=wait")

                state = await client.get("/is_sleeping")
                events = await rest_of(lines)
        assert state.json() == {"is_sleeping": True}
        assert events[-1] == "[DONE]"

    async def test_sleep_with_keep_freezes_streams_which_go_on_after_waking(self, tmp_path):
        with running(tmp_path) as simulator:
            async with simulator.client() as client:
                lines = await open_stream(client, max_tokens=200)

                await client.post("/sleep?level=1&mode=keep")
                await client.post("/wake_up")
                events = await rest_of(lines)

        texts = [
            choice["delta"]["content"]
            for event in events[:-1]
            for choice in json.loads(event)["choices"]
        ]
        assert len(texts) == 200
        assert events[-1] == "[DONE]"

    async def test_it_is_awake_only_when_all_tags_were_woken(self, tmp_path):
        with running(tmp_path) as simulator:
            async with simulator.client() as client:
                await client.post("/sleep?level=2")

                weights = await client.post("/wake_up?tags=weights")
                cache = await client.post("/wake_up?tags=kv_cache")

        assert weights.json() == {"status": "sleeping"}
        assert cache.json() == {"status": "awake"}

    async def test_without_dev_mode_there_is_no_sleep(self, tmp_path):
        with launched(tmp_path, "--load-seconds=0") as simulator:
            simulator.wait_for_line("Application startup complete")
            async with simulator.client() as client:
                assert (await client.post("/sleep")).status_code == 404


class TestLimits:
    async def test_the_api_key_guards_v1_only(self, tmp_path):
        with running(tmp_path, "--api-key=secret") as simulator:
            async with (
                simulator.client() as stranger,
                simulator.client(authorization="Bearer secret") as friend,
            ):
                assert (await stranger.post(CHAT, json=chat())).status_code == 401
                assert (await friend.post(CHAT, json=chat())).status_code == 200
                assert (await stranger.get("/metrics")).status_code == 200

    async def test_beyond_max_num_queued_reqs_it_answers_503_and_counts_it(self, tmp_path):
        with running(tmp_path, SLOW, "--max-num-queued-reqs=1") as simulator:
            async with simulator.client() as client:
                lines = await open_stream(client, max_tokens=10_000)

                refused = await client.post(CHAT, json=chat())
                metrics = (await client.get("/metrics")).text
                del lines

        assert refused.status_code == 503
        assert 'vllm:admission_rejections_total{model_name="sim"' in metrics
        assert 'reason="max_num_queued_reqs"} 1.0' in metrics


def test_it_never_needs_more_than_30_mb(tmp_path: Path):
    with running(tmp_path) as simulator:
        memory = psutil.Process(simulator.process.pid).memory_full_info()

    assert memory.pss <= 30_000_000
