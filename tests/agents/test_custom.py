"""Declarations of custom engines: what is refused, and what becomes of a good one."""

import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from agents.custom import CustomEngine, faults
from agents.engines.base import Place
from agents.engines.custom import Custom
from agents.settings import Policy
from agents.standing import Refused, check_custom
from agents.wire import DesiredPhase as Wanted
from agents.wire import EngineKind, EngineSpec, ReplicaOrder, RuntimeKind, Task, WeightsRef

BENTO = CustomEngine(
    command=("bentoml", "serve", "{weights}", "--port", "{port}"),
    requirements=("bentoml==1.4.40",),
    apis=("http",),
    paths=("/summarize",),
    health_path="/readyz",
    metrics={
        "running": 'in_progress{endpoint="/summarize"}',
        "requests_total": "requests_total",
    },
    env={"BENTOML_HOME": "{run}/bentoml"},
)
METRICS = """\
# HELP in_progress x
in_progress{endpoint="/readyz",service="s"} 4.0
in_progress{endpoint="/summarize",service="s"} 2.0
in_progress_created{endpoint="/summarize"} 99.0
requests_total{endpoint="/summarize",code="200"} 5.0
requests_total{endpoint="/summarize",code="500"} 1.0
"""


def changed(**fields) -> CustomEngine:
    return msgspec.structs.replace(BENTO, **fields)


def order(engine: CustomEngine = BENTO) -> ReplicaOrder:
    spec = EngineSpec(
        engine=EngineKind.CUSTOM,
        task=Task.HTTP,
        weights=WeightsRef(key="b", source="bundled:summarizer"),
        served_names=("bento",),
        custom=engine,
    )
    return ReplicaOrder(
        replica_id="r1", deployment="bento", generation=1, desired=Wanted.RUNNING, spec=spec
    )


def place(runtime: RuntimeKind = RuntimeKind.PROCESS) -> Place:
    return Place(
        host_id="h",
        runtime=runtime,
        weights_dir=Path("/w"),
        run_dir=Path("/r"),
        engine_command=("/env/bin",) if runtime is RuntimeKind.PROCESS else (),
        image="img:1",
    )


class TestDeclaration:
    def test_a_good_one_has_no_faults(self):
        assert faults(BENTO) == []

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"command": ()}, "command"),
            ({"command": ("/bin/sh", "-c", "{port}")}, "command[0]"),
            ({"command": ("x", "{secret}", "{port}")}, "command"),
            ({"command": ("x", "serve")}, "command"),
            ({"requirements": ("bentoml",)}, "requirements[0]"),
            ({"requirements": ("git+https://x/y",)}, "requirements[0]"),
            ({"requirements": ()}, "requirements"),
            ({"apis": ("grpc",)}, "apis"),
            ({"paths": ()}, "paths"),
            ({"paths": ("/../etc",)}, "paths[0]"),
            ({"health_path": "readyz"}, "health_path"),
            ({"metrics": {"speed": "x"}}, "metrics.speed"),
            ({"metrics": {"running": "a b"}}, "metrics.running"),
            ({"env": {"LD_PRELOAD": "/x.so"}}, "env.LD_PRELOAD"),
            ({"env": {"PYTHONPATH": "/x"}}, "env.PYTHONPATH"),
            ({"env": {"VLLM_SERVER_DEV_MODE": "1"}}, "env.VLLM_SERVER_DEV_MODE"),
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_a_bad_one_names_its_field(self, fields, field):
        assert field in [name for name, _ in faults(changed(**fields))]


class TestPolicy:
    def test_a_host_installs_only_packages_that_it_allows(self):
        other = changed(requirements=("evil==1.0",))

        with pytest.raises(Refused, match="HEARTH_ALLOWED_PACKAGES"):
            check_custom(other, RuntimeKind.PROCESS, Policy())
        check_custom(BENTO, RuntimeKind.PROCESS, Policy())

    def test_a_host_without_docker_refuses_an_image(self):
        image = changed(requirements=(), image="ghcr.io/x/y:1")

        with pytest.raises(Refused, match="is an image"):
            check_custom(image, RuntimeKind.PROCESS, Policy())


class TestLaunch:
    def test_a_port_gets_a_socket_before_it(self):
        argv = Custom(BENTO).launch(order(), place()).argv

        assert argv[:3] == (sys.executable, "-I", "-S")
        assert argv[3].endswith("bridge.py")
        assert argv[4:] == (
            "/r/engine.sock", "/env/bin/bentoml", "serve", "/w", "--port", "{port}",
        )  # fmt: skip

    def test_an_image_that_takes_a_socket_runs_its_own_program(self):
        engine = changed(command=("vllm", "serve", "{weights}", "--uds", "{socket}"), image="i:1")

        launch = Custom(engine).launch(order(engine), place(RuntimeKind.DOCKER))

        assert launch.entrypoint == ("vllm",)
        assert launch.argv == ("serve", "/weights", "--uds", "/run/hearth/engine.sock")

    def test_its_environment_is_written_whole(self):
        env = Custom(BENTO).launch(order(), place()).env

        assert env["BENTOML_HOME"] == "/r/bentoml"
        assert not any(name.startswith("HEARTH_") for name in env)

    def test_a_bad_declaration_is_refused_with_its_field(self):
        bad = changed(paths=())

        with pytest.raises(ValueError, match=r"custom\.paths"):
            Custom(bad).launch(order(bad), place())


class TestNumbers:
    def test_what_is_mapped_is_told_and_the_rest_is_unknown(self):
        sample = Custom(BENTO).sample("r1", 1.0, METRICS)

        assert (sample.running, sample.requests_total) == (2, 6.0)
        assert sample.waiting is None
        assert sample.prefix_cache_hits_total is None

    def test_a_series_that_is_not_there_yet_is_unknown(self):
        assert Custom(BENTO).sample("r1", 1.0, "").running is None


class TestProbe:
    async def test_needs_health_and_the_declared_request(self):
        asked = []

        def serve(request: httpx.Request) -> httpx.Response:
            asked.append((request.method, request.url.path))
            return httpx.Response(200)

        engine = msgspec.convert(
            msgspec.to_builtins(BENTO) | {"probe": {"path": "/summarize", "body": {"text": "a"}}},
            CustomEngine,
        )
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(serve), base_url="http://engine"
        ) as client:
            assert await Custom(engine).probe(client, order(engine))

        assert asked == [("GET", "/readyz"), ("POST", "/summarize")]
