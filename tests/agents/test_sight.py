"""Which runtime starts what on a host that has two."""

from agents.sight import Sight
from agents.wire import EngineKind, RuntimeKind
from tests.agents.fakes import FakeRuntime


class TestStarterOf:
    def test_an_engine_is_started_by_the_hosts_runtime(self):
        containers, processes = FakeRuntime(RuntimeKind.DOCKER), FakeRuntime(RuntimeKind.PROCESS)

        assert Sight("h", [containers, processes]).starter_of(EngineKind.VLLM) is containers

    def test_a_simulator_is_a_process_on_a_docker_host_too(self):
        containers, processes = FakeRuntime(RuntimeKind.DOCKER), FakeRuntime(RuntimeKind.PROCESS)

        assert Sight("h", [containers, processes]).starter_of(EngineKind.SIMULATOR) is processes
