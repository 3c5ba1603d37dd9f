"""vLLM's command line, log and metrics; the texts are those that vLLM 0.32 printed."""

import json
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from agents import engine_flags
from agents.engines.base import Place, StageMark
from agents.engines.vllm import VllmEngine
from agents.runtimes.base import LABEL_GENERATION, LABEL_HOST, LABEL_REPLICA
from agents.wire import (
    DesiredPhase,
    EngineKind,
    EngineSettings,
    EngineSpec,
    ReplicaOrder,
    RuntimeKind,
    Seat,
    Task,
    WeightsRef,
)

ENGINE = VllmEngine()
PLACE = Place(
    host_id="h1",
    runtime=RuntimeKind.PROCESS,
    weights_dir=Path("/cache/model"),
    run_dir=Path("/run/r1-g2"),
    engine_command=("/venv/bin/vllm", "serve"),
    image="",
)
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1115.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7954021999989486e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1024.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2e+06
vllm:generation_tokens_total{engine="0",model_name="m"} 9.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2.0
vllm:cache_config_info{block_size="128",engine="0",kv_cache_size_tokens="5760"} 1.0
vllm:cache_config_info{block_size="128",engine="1",kv_cache_size_tokens="5760"} 1.0
process_resident_memory_bytes 7.1e+08
"""


def _order(*, settings: EngineSettings | None = None, **spec) -> ReplicaOrder:
    defaults = {
        "engine": EngineKind.VLLM,
        "weights": WeightsRef(key="model", source="path:/cache/model"),
        "served_names": ("org/model", "m"),
        "settings": settings or EngineSettings(),
    }
    return ReplicaOrder(
        replica_id="r1",
        deployment="d",
        generation=2,
        desired=DesiredPhase.RUNNING,
        spec=EngineSpec(**(defaults | spec)),
        stop_grace_seconds=30.0,
    )


def _flags(argv: tuple[str, ...]) -> dict[str, str]:
    """Return each flag with the word after it, if that is no flag itself."""
    return {
        word: following if not following.startswith("--") else ""
        for word, following in zip(argv, (*argv[1:], "--"), strict=True)
        if word.startswith("--")
    }


class TestLaunch:
    def test_tells_of_its_cache_beside_its_own_socket_if_asked(self):
        asked = _order(settings=EngineSettings(kv_events=True))

        config = json.loads(_flags(ENGINE.launch(asked, PLACE).argv)["--kv-events-config"])

        assert config["endpoint"] == "ipc:///run/r1-g2/kv.sock"
        assert config["replay_endpoint"] == "ipc:///run/r1-g2/kvr.sock"
        assert "--kv-events-config" not in ENGINE.launch(_order(), PLACE).argv

    def test_a_process_listens_on_the_socket_of_its_folder(self):
        launch = ENGINE.launch(_order(), PLACE)

        assert launch.argv[:5] == (
            "/venv/bin/vllm",
            "serve",
            "/cache/model",
            "--uds",
            "/run/r1-g2/engine.sock",
        )
        assert launch.argv[5:8] == ("--served-model-name", "org/model", "m")
        assert launch.name == "hearth-r1-g2"
        assert launch.labels[LABEL_REPLICA] == "r1"
        assert launch.labels[LABEL_GENERATION] == "2"
        assert launch.labels[LABEL_HOST] == "h1"

    def test_a_container_sees_its_own_folders(self):
        image = "vllm/vllm-openai:v0.32.0"
        place = replace(PLACE, runtime=RuntimeKind.DOCKER, engine_command=(), image=image)

        launch = ENGINE.launch(_order(), place)

        assert launch.argv[:3] == ("/weights", "--uds", "/run/hearth/engine.sock")
        assert launch.image == "vllm/vllm-openai:v0.32.0"
        assert (launch.mounts[0].source, launch.mounts[0].target) == (
            Path("/cache/model"),
            "/weights",
        )
        assert launch.mounts[0].read_only
        assert launch.env["HOME"] == "/run/hearth"

    def test_a_port_is_on_loopback_and_its_key_is_in_no_argument(self):
        place = replace(PLACE, port=9001, api_key="secret")

        launch = ENGINE.launch(_order(), place)

        assert launch.argv[3:7] == ("--host", "127.0.0.1", "--port", "9001")
        assert launch.env["VLLM_API_KEY"] == "secret"
        assert "secret" not in " ".join(launch.argv)

    def test_settings_become_flags_and_unset_ones_do_not(self):
        settings = EngineSettings(
            max_model_len=2048,
            kv_cache_bytes=134217728,
            gpu_memory_utilization=0.9,
            tensor_parallel_size=2,
            tool_call_parser="hermes",
            enforce_eager=True,
            enable_prefix_caching=False,
        )

        flags = _flags(ENGINE.launch(_order(settings=settings, device="cuda"), PLACE).argv)

        assert flags["--max-model-len"] == "2048"
        assert flags["--kv-cache-memory-bytes"] == "134217728"
        assert flags["--gpu-memory-utilization"] == "0.9"
        assert flags["--tensor-parallel-size"] == "2"
        assert flags["--tool-call-parser"] == "hermes"
        assert {"--enforce-eager", "--no-enable-prefix-caching", "--enable-auto-tool-choice"} <= (
            flags.keys()
        )
        assert not {"--pipeline-parallel-size", "--max-num-seqs", "--dtype"} & flags.keys()

    def test_usage_ids_and_a_bounded_shutdown_are_always_asked_for(self):
        flags = _flags(ENGINE.launch(_order(), PLACE).argv)

        assert {"--enable-prompt-tokens-details", "--enable-request-id-headers"} <= flags.keys()
        assert flags["--shutdown-timeout"] == "25"
        assert flags["--allowed-media-domains"] == "media.invalid"

    @pytest.mark.parametrize("task", [Task.EMBED, Task.RERANK])
    def test_models_that_do_not_generate_get_the_pooling_runner(self, task):
        flags = _flags(ENGINE.launch(_order(task=task), PLACE).argv)

        assert flags["--runner"] == "pooling"
        assert "--enable-prefix-caching" not in flags

    def test_on_cpu_threads_are_counted_and_not_bound(self):
        env = ENGINE.launch(_order(settings=EngineSettings(omp_threads=3)), PLACE).env

        assert env["OMP_NUM_THREADS"] == "3"
        assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
        assert env["VLLM_USE_AOT_COMPILE"] == "0"
        assert env["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == env["LRU_CACHE_CAPACITY"] == "32"
        assert env["HF_HUB_OFFLINE"] == "1"
        assert env["VLLM_NO_USAGE_STATS"] == "1"

    @pytest.mark.parametrize(
        ("changes", "kv_cache_bytes"),
        [
            ({}, str(1 << 30)),
            ({"task": Task.EMBED}, str(16 << 20)),
            ({"settings": EngineSettings(kv_cache_bytes=5 << 20)}, "5242880"),
            ({"settings": EngineSettings(gpu_memory_utilization=0.5)}, None),
            ({"device": "cuda"}, None),
        ],
        ids=["chat", "embed", "ordered", "a share is ordered", "GPU"],
    )
    def test_on_cpu_the_cache_is_never_a_share_of_all_memory(self, changes, kv_cache_bytes):
        flags = _flags(ENGINE.launch(_order(**changes), PLACE).argv)

        assert flags.get("--kv-cache-memory-bytes") == kv_cache_bytes

    def test_caches_are_the_replicas_own(self):
        env = ENGINE.launch(_order(), PLACE).env

        assert env["VLLM_CACHE_ROOT"] == "/run/r1-g2/cache/vllm"

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"served_names": ()}, "served_names"),
            ({"served_names": ("--trust-remote-code",)}, r"served_names\[0\]"),
            ({"settings": EngineSettings(dtype="-x")}, "settings.dtype"),
            ({"settings": EngineSettings(tool_call_parser="a b")}, "settings.tool_call_parser"),
            ({"settings": EngineSettings(max_model_len=0)}, "settings.max_model_len"),
            ({"settings": EngineSettings(gpu_memory_utilization=1.5)}, "gpu_memory_utilization"),
            ({"settings": EngineSettings(block_size=16)}, "multiple of 32"),
            ({"settings": EngineSettings(kv_cache_dtype="int8_per_token_head")}, "kv_cache_dtype"),
        ],
        ids=str,
    )
    def test_a_wrong_setting_is_refused_by_name(self, changes, field):
        with pytest.raises(ValueError, match=field):
            ENGINE.launch(_order(**changes), PLACE)

    def test_a_folder_too_long_for_a_socket_is_refused(self):
        place = replace(PLACE, run_dir=Path("/run") / ("x" * 120))

        with pytest.raises(ValueError, match="too long for a Unix socket"):
            ENGINE.launch(_order(), place)


class TestImages:
    def test_each_device_has_one(self):
        assert ENGINE.default_image("cuda") == "vllm/vllm-openai:v0.32.0"
        assert ENGINE.default_image("cpu").startswith("hearth/")

    def test_another_device_is_refused(self):
        with pytest.raises(ValueError, match="'tpu'"):
            ENGINE.default_image("tpu")


class TestReadLine:
    @pytest.mark.parametrize(
        ("line", "mark"),
        [
            (
                "(APIServer pid=1) INFO 11-23 02:49:26 [api_utils.py:286] non-default args: {'uds'",
                StageMark(stage="import"),
            ),
            (
                "(Worker pid=3) INFO 11-23 [cpu_model_runner.py:68] Starting to load model /m...",
                StageMark(stage="load"),
            ),
            (
                "(Worker pid=3) INFO [default_loader.py:501] Loading weights took 1.60 seconds",
                StageMark(stage="load", seconds=1.6),
            ),
            (
                "(EngineCore pid=2) INFO [monitor.py:20] torch.compile took 48.30 s in total",
                StageMark(stage="compile", seconds=48.3),
            ),
            (
                "(Worker pid=3) INFO Graph capturing finished in 12 secs, took 0.50 GiB",
                StageMark(stage="graphs", seconds=12.0, memory={"graph_bytes": 512 << 20}),
            ),
            (
                "(EngineCore pid=2) INFO [kv_cache_utils.py:2327] CPU KV cache size: 5,760 tokens, "
                "Maximum concurrency for 2,048 tokens per request: 2.81x",
                StageMark(stage="warm-up", kv_cache_tokens=5760),
            ),
            (
                "INFO [core.py:402] init engine (profile, create kv cache, warmup model) "
                "took 0.37 s",
                StageMark(stage="warm-up", seconds=0.37),
            ),
            ("INFO:     Application startup complete.", None),
        ],
        ids=["import", "load", "loaded", "compiled", "graphs", "cache", "warm", "nothing"],
    )
    def test_tells_the_stage(self, line, mark):
        assert ENGINE.read_line(line) == mark


class TestMetrics:
    def test_a_sample_adds_up_the_engines_of_a_server(self):
        sample = ENGINE.sample("r1", 12.5, METRICS)

        assert (sample.replica_id, sample.at) == ("r1", 12.5)
        assert (sample.running, sample.waiting) == (3, 4)
        assert sample.kv_cache_usage_ratio == 0.5
        assert sample.prompt_tokens_total == 1_200_000
        assert sample.output_tokens_total == 9
        assert sample.prefix_cache_queries_total == 1115
        assert sample.prefix_cache_hits_total == 1024
        assert sample.requests_total == 5

    def test_the_capacity_is_that_of_all_engines(self):
        assert ENGINE.kv_cache_tokens(METRICS) == 11520

    def test_what_is_not_told_stays_unknown(self):
        sample = ENGINE.sample("r1", 1.0, "process_cpu_seconds_total 3\n")

        assert (sample.running, sample.kv_cache_usage_ratio, sample.requests_total) == (
            None,
            None,
            None,
        )
        assert ENGINE.kv_cache_tokens("") is None


class TestProbe:
    async def _probe(self, answers: dict[str, int], **spec) -> tuple[bool, list[str]]:
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            return httpx.Response(answers[request.url.path])

        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await ENGINE.probe(client, _order(**spec)), asked

    @pytest.mark.parametrize(
        ("task", "path"),
        [
            (Task.CHAT, "/v1/chat/completions"),
            (Task.EMBED, "/v1/embeddings"),
            (Task.RERANK, "/v1/rerank"),
        ],
        ids=str,
    )
    async def test_asks_for_what_the_model_does(self, task, path):
        ready, asked = await self._probe({"/health": 200, path: 200}, task=task)

        assert ready
        assert asked == ["/health", path]

    async def test_a_model_without_a_chat_template_is_asked_to_complete(self):
        answers = {"/health": 200, "/v1/chat/completions": 400, "/v1/completions": 200}

        ready, asked = await self._probe(answers)

        assert ready
        assert asked[-1] == "/v1/completions"

    async def test_health_alone_is_not_enough(self):
        ready, _ = await self._probe({"/health": 200, "/v1/chat/completions": 500})

        assert not ready

    async def test_an_unhealthy_engine_is_not_asked(self):
        ready, asked = await self._probe({"/health": 503})

        assert not ready
        assert asked == ["/health"]

    async def test_an_engine_that_does_not_listen_yet_is_not_ready(self, tmp_path):
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "absent.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            assert not await ENGINE.probe(client, _order())


class TestSeat:
    """A replica over several hosts: vLLM's own multi-node, without Ray."""

    SPLIT = EngineSettings(tensor_parallel_size=2, pipeline_parallel_size=3)
    GPUS = ("GPU-1", "GPU-2")

    def argv(self, seat: Seat, **spec) -> tuple[str, ...]:
        changed = {"device": "cuda", "gpu_uuids": self.GPUS, **spec}
        order = msgspec.structs.replace(_order(settings=self.SPLIT, **changed), seat=seat)
        return ENGINE.launch(order, PLACE).argv

    @pytest.mark.parametrize(
        ("rank", "last"), [(0, "mp"), (1, "--headless"), (2, "--headless")], ids=str
    )
    def test_tells_each_member_its_rank_and_where_rank_0_is(self, rank, last):
        argv = self.argv(Seat(size=3, rank=rank, master_address="10.0.0.1", master_port=29501))

        begin = argv.index("--nnodes")
        assert argv[begin : begin + 10] == (
            *("--nnodes", "3", "--node-rank", str(rank)),
            *("--master-addr", "10.0.0.1", "--master-port", "29501"),
            *("--distributed-executor-backend", "mp"),
        )
        assert argv[begin + 9 + (rank > 0)] == last
        assert ("--headless" in argv) == (rank > 0)

    def test_a_replica_on_one_host_is_told_nothing_of_it(self):
        argv = ENGINE.launch(_order(), PLACE).argv

        assert not {"--nnodes", "--headless", "--master-addr"} & set(argv)

    @pytest.mark.parametrize(
        ("seat", "spec", "words"),
        [
            ({"size": 1}, {}, "seat.size is 1"),
            ({"rank": 3}, {}, "seat.rank is 3: give 0 to 2"),
            ({"master_port": 80}, {}, "seat.master_port is 80"),
            ({"master_address": "--x"}, {}, "seat.master_address is '--x'"),
            ({}, {"device": "cpu"}, "a group of hosts is for GPUs"),
            ({"size": 2}, {}, "seat.size is 2 with 2 GPUs each, the settings take 6 GPUs"),
        ],
    )
    def test_refuses_what_vllm_would_refuse_or_misread(self, seat, spec, words):
        plain = {"size": 3, "rank": 0, "master_address": "10.0.0.1", "master_port": 29501}

        with pytest.raises(ValueError, match=words):
            self.argv(Seat(**plain | seat), **spec)

    def test_talks_with_the_others_by_its_own_address_on_the_host_s_network(self):
        seat = Seat(
            size=3, rank=1, master_address="10.0.0.1", master_port=29501, own_address="10.0.0.2"
        )
        order = _order(settings=self.SPLIT, device="cuda", gpu_uuids=self.GPUS)
        place = replace(PLACE, interface="eth1")

        launch = ENGINE.launch(msgspec.structs.replace(order, seat=seat), place)

        assert launch.host_network
        assert launch.env["VLLM_HOST_IP"] == "10.0.0.2"
        assert launch.env["NCCL_SOCKET_IFNAME"] == launch.env["GLOO_SOCKET_IFNAME"] == "eth1"
        assert not ENGINE.launch(order, place).host_network

    def test_gives_flags_that_this_engine_has(self):
        argv = self.argv(Seat(size=3, rank=1, master_address="10.0.0.1", master_port=29501))

        given = {word for word in argv[argv.index("--nnodes") :] if word.startswith("--")}
        assert given & {"--nnodes", "--headless"} == {"--nnodes", "--headless"}
        assert given <= engine_flags.flags_of().keys()
