"""The simulator as an engine of the agent: its launch, its log, its readiness, its numbers."""

import itertools
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from agents.engines.base import Place, StageMark
from agents.engines.simulator import SimulatorEngine
from agents.wire import (
    DesiredPhase,
    EngineKind,
    EngineSettings,
    EngineSpec,
    ReplicaOrder,
    RuntimeKind,
    SimulatorSettings,
    Task,
    WeightsRef,
)
from tests.simulator_host import Simulator

ENGINE = SimulatorEngine()
QUICK = SimulatorSettings(load_seconds=0.0, decode_seconds_per_token=0.001)


def order(simulator=QUICK, settings=None, task=Task.CHAT, served_names=("m",)) -> ReplicaOrder:
    return ReplicaOrder(
        replica_id="00000000-0000-0000-0000-000000000001",
        deployment="m",
        generation=3,
        desired=DesiredPhase.RUNNING,
        spec=EngineSpec(
            engine=EngineKind.SIMULATOR,
            task=task,
            weights=WeightsRef(key="some-model", source="path:/nowhere"),
            served_names=served_names,
            settings=settings or EngineSettings(),
            simulator=simulator,
        ),
    )


def place(folder: Path, **fields) -> Place:
    values = {
        "host_id": "h",
        "runtime": RuntimeKind.PROCESS,
        "weights_dir": folder,
        "run_dir": folder,
        "engine_command": (),
        "image": "",
    }
    return Place(**{**values, **fields})


@contextmanager
def started(folder: Path, given: ReplicaOrder):
    """Run what `launch` describes, with its environment alone, and wait until it is ready."""
    launch = ENGINE.launch(given, place(folder))
    log_path = folder / "engine.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(launch.argv, env=launch.env, cwd="/", stdout=log, stderr=log)
    simulator = Simulator(process, folder / "engine.sock", log_path)
    try:
        simulator.wait_for_line("Application startup complete")
        yield simulator
    finally:
        process.kill()
        process.wait()


class TestLaunch:
    @pytest.mark.parametrize("task", [Task.CHAT, Task.EMBED, Task.RERANK])
    async def test_what_it_describes_runs_anywhere_and_passes_its_own_probe(self, tmp_path, task):
        given = order(task=task)
        with started(tmp_path, given) as simulator:
            async with simulator.client() as client:
                assert await ENGINE.healthy(client)
                assert await ENGINE.probe(client, given)

    def test_the_same_order_gives_the_same_name_and_labels_of_its_host(self, tmp_path):
        one, other = (ENGINE.launch(order(), place(tmp_path)) for _ in range(2))

        assert one == other
        assert one.name.endswith("-g3")
        assert one.labels["ai.hearth.host"] == "h"

    def test_settings_become_flags(self, tmp_path):
        settings = EngineSettings(max_model_len=512, block_size=32, enable_prefix_caching=False)
        simulator = SimulatorSettings(seed=7, fail="exit_at_start", memory_bytes=1_000_000)

        argv = ENGINE.launch(order(simulator, settings), place(tmp_path)).argv

        flags = dict(itertools.pairwise(argv))
        assert flags["--max-model-len"] == "512"
        assert flags["--block-size"] == "32"
        assert flags["--seed"] == "7"
        assert flags["--fail"] == "exit_at_start"
        assert flags["--memory-bytes"] == "1000000"
        assert "--no-enable-prefix-caching" in argv

    def test_a_context_longer_than_the_simulated_cache_is_cut_to_it(self, tmp_path):
        settings = EngineSettings(max_model_len=262_144)

        argv = ENGINE.launch(order(settings=settings), place(tmp_path)).argv

        assert argv[argv.index("--max-model-len") + 1] == "100000"

    def test_a_key_goes_into_the_environment_and_only_with_a_port(self, tmp_path):
        on_port = ENGINE.launch(order(), place(tmp_path, port=9000, api_key="secret"))
        on_socket = ENGINE.launch(order(), place(tmp_path, api_key="secret"))

        assert on_port.env["VLLM_API_KEY"] == "secret"
        assert "secret" not in on_port.argv
        assert "--dev-mode" not in on_port.argv
        assert "VLLM_API_KEY" not in on_socket.env

    @pytest.mark.parametrize(
        ("given", "fields", "says"),
        [
            (order(), {"runtime": RuntimeKind.DOCKER}, "process runtime only"),
            (order(served_names=()), {}, "served_names is empty"),
            (order(served_names=("--uds",)), {}, r"served_names\[0\] is '--uds'"),
            (order(task=Task.IMAGE), {}, "task is image: the simulator does chat, embed, rerank"),
            (order(task=Task.HTTP), {}, "task is http: the simulator does chat, embed, rerank"),
            (order(SimulatorSettings(fail="burn")), {}, "simulator.fail: unknown fault 'burn'"),
            (order(SimulatorSettings(load_seconds=-1)), {}, "simulator.load_seconds is -1"),
            (order(SimulatorSettings(max_num_seqs=0)), {}, "simulator.max_num_seqs is 0"),
            (order(SimulatorSettings(kv_cache_tokens=5)), {}, "kv_cache_tokens is 5: use 64"),
            (
                order(SimulatorSettings(decode_seconds_per_token=0)),
                {},
                "simulator.decode_seconds_per_token is 0: use more than 0",
            ),
        ],
        ids=[
            "docker",
            "no-name",
            "flag",
            "image",
            "http",
            "fault",
            "load",
            "seqs",
            "cache",
            "decode",
        ],
    )
    def test_a_bad_order_is_refused_with_its_field(self, tmp_path, given, fields, says):
        with pytest.raises(ValueError, match=says):
            ENGINE.launch(given, place(tmp_path, **fields))


class TestReading:
    def test_its_own_log_gives_every_stage_in_order_with_seconds(self, tmp_path):
        with started(
            tmp_path, order(msgspec.structs.replace(QUICK, load_seconds=0.2))
        ) as simulator:
            lines = simulator.log.splitlines()

        marks = [mark for line in lines if (mark := ENGINE.read_line(line)) is not None]

        assert marks == [
            StageMark(stage="import"),
            StageMark(stage="load"),
            StageMark(stage="load", seconds=0.09),
            StageMark(stage="compile", seconds=0.03),
            StageMark(stage="graphs", seconds=0.02),
            StageMark(stage="warm-up", kv_cache_tokens=100_000),
            StageMark(stage="warm-up", seconds=0.01),
        ]

    async def test_a_sample_holds_what_was_served(self, tmp_path):
        with started(tmp_path, order()) as simulator:
            async with simulator.client() as client:
                body = {"prompt": "x" * 400, "max_tokens": 5, "ignore_eos": True}
                for _ in range(2):
                    await client.post("/v1/completions", json=body)
                metrics = (await client.get("/metrics")).text

        sample = ENGINE.sample("r", 12.5, metrics)

        assert (sample.replica_id, sample.at) == ("r", 12.5)
        assert (sample.running, sample.waiting) == (0, 0)
        assert sample.prompt_tokens_total == 200
        assert sample.output_tokens_total == 10
        assert sample.prefix_cache_queries_total == 200
        assert sample.prefix_cache_hits_total == 96
        assert sample.requests_total == 2
        assert ENGINE.kv_cache_tokens(metrics) == 100_000

    def test_metrics_that_tell_nothing_give_an_empty_sample(self):
        sample = ENGINE.sample("r", 1.0, "# nothing\n")

        assert sample.running is None
        assert sample.prompt_tokens_total is None
        assert ENGINE.kv_cache_tokens("") is None

    async def test_an_engine_that_is_not_there_is_neither_healthy_nor_ready(self, tmp_path):
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "none.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            assert not await ENGINE.healthy(client)
            assert not await ENGINE.probe(client, order())
