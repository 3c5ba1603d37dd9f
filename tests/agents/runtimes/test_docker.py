"""The Docker runtime against a real Docker Engine, with small programs in place of engines."""

import asyncio
import signal
import socket
import stat
from pathlib import Path

import pytest

from agents.runtimes.base import (
    LABEL_GENERATION,
    LABEL_HOST,
    LABEL_REPLICA,
    Instance,
    Launch,
    Mount,
    RuntimeFault,
)
from agents.runtimes.docker import DockerRuntime
from agents.wire import EngineKind
from tests.e2e.engine_host import PrivateDocker, private_docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

DEADLINE_SECONDS = 30.0

SAYS_TERM = """
import signal, sys
def end(*_): print("draining"); sys.exit(7)
signal.signal(signal.SIGTERM, end)
print("ready")
while True: signal.pause()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready")
while True: signal.pause()
"""
LOOKS_AROUND = """
import json, os
def writable(path):
    try: open(path + "/probe", "w").close()
    except OSError: return False
    return True
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "user": os.getuid(), "capabilities": int(status["CapEff"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(), "networks": os.listdir("/sys/class/net"),
    "root": writable("/"), "tmp": writable("/tmp"), "run": writable("/run/hearth"),
    "weights": open("/weights/config.json").read(), "weights_writable": writable("/weights"),
    "key": os.environ["KEY"], "gpus": os.environ.get("NVIDIA_VISIBLE_DEVICES"),
}))
"""


@pytest.fixture
def runtime(docker_engine, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", docker_engine.address)
    return DockerRuntime(host_id="h1", engines_root=tmp_path / "engines")


@pytest.fixture
async def started(runtime, stand_in_image, tmp_path):
    """Start programs in containers; whatever is left in the end is removed."""

    async def start(program, *, using=runtime, **changes):
        return await using.start(_launch(tmp_path, stand_in_image, program, **changes))

    yield start
    for instance in await runtime.find():
        await runtime.stop(instance, 1)
        await runtime.remove(instance)


def _launch(folder: Path, image: str, program: str, **changes) -> Launch:
    run_dir, weights = folder / "r1-g1", folder / "weights"
    run_dir.mkdir(mode=0o700, exist_ok=True)
    weights.mkdir(exist_ok=True)
    (weights / "config.json").write_text("{}")
    defaults = {
        "name": "hearth-r1-g1",
        "labels": {LABEL_REPLICA: "r1", LABEL_GENERATION: "1", LABEL_HOST: "h1"},
        "engine": EngineKind.VLLM,
        "device": "cpu",
        "argv": ("-c", program),
        "env": {"KEY": "k"},
        "run_dir": run_dir,
        "image": image,
        "mounts": (Mount(source=weights, target="/weights"),),
    }
    return Launch(**(defaults | changes))


async def _prints(runtime, word: str) -> Instance:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            (instance,) = await runtime.find()
            if word in " ".join(await runtime.log_tail(instance, 50)):
                return instance
            await asyncio.sleep(0.05)


async def _ends(runtime) -> Instance:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            (instance,) = await runtime.find()
            if not instance.running:
                return instance
            await asyncio.sleep(0.05)


def _inspect(daemon: PrivateDocker, name: str = "hearth-r1-g1") -> dict:
    return daemon.client().api.inspect_container(name)


class TestStart:
    async def test_the_container_is_locked_down(self, runtime, started):
        await started(LOOKS_AROUND)
        ended = await _ends(runtime)

        (line,) = await runtime.log_tail(ended, 5)

        assert line == (
            '{"user": 65532, "capabilities": 0, "no_new_privileges": "1", "networks": ["lo"], '
            '"root": false, "tmp": true, "run": true, "weights": "{}", "weights_writable": false, '
            '"key": "k", "gpus": null}'
        )

    async def test_limits_are_set(self, docker_engine, started):
        await started(DEAF, memory_bytes=256 << 20, shm_bytes=64 << 20)

        host = _inspect(docker_engine)["HostConfig"]

        assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (
            256 << 20,
            256 << 20,
            64 << 20,
        )
        assert host["PidsLimit"] == 4096
        assert host["RestartPolicy"]["Name"] == "no"
        assert host["LogConfig"]["Config"] == {"max-size": "16m", "max-file": "2"}

    async def test_one_of_several_hosts_has_the_network_of_its_host(self, docker_engine, started):
        await started(DEAF, host_network=True)

        assert _inspect(docker_engine)["HostConfig"]["NetworkMode"] == "host"

    async def test_gpus_are_requested_by_uuid(self, docker_engine, runtime, started):
        await started(LOOKS_AROUND, gpu_uuids=("GPU-00000000-0000-0000-0000-000000000000",))
        ended = await _ends(runtime)

        (request,) = _inspect(docker_engine)["HostConfig"]["DeviceRequests"]

        assert request["DeviceIDs"] == ["GPU-00000000-0000-0000-0000-000000000000"]
        assert "GPU-00000000-0000" in (await runtime.log_tail(ended, 5))[0]

    async def test_starting_twice_gives_the_same_container(self, runtime, started):
        first, second = await asyncio.gather(started(DEAF), started(DEAF))

        assert first.ref == second.ref
        assert len(await runtime.find()) == 1

    async def test_a_second_agent_of_the_host_adopts_it(self, started, tmp_path):
        first = await started(DEAF)
        restarted = DockerRuntime(host_id="h1", engines_root=tmp_path / "engines")

        (found,) = await restarted.find()

        assert found.ref == first.ref
        assert found.running
        assert abs(found.started_at - first.started_at) < 0.001

    async def test_another_host_does_not_see_it(self, started, tmp_path):
        await started(DEAF)
        other = DockerRuntime(host_id="h2", engines_root=tmp_path / "engines")

        assert await other.find() == []

    async def test_a_container_that_was_made_but_never_started_is_replaced(
        self, docker_engine, runtime, started, stand_in_image
    ):
        labels = {LABEL_REPLICA: "r1", LABEL_GENERATION: "1", LABEL_HOST: "h1"}
        docker_engine.client().containers.create(stand_in_image, name="hearth-r1-g1", labels=labels)
        (left,) = await runtime.find()

        instance = await started(DEAF)

        assert (left.running, left.exit_code) == (False, None)
        assert instance.running

    async def test_a_name_taken_by_somebody_else_is_left_alone(
        self, docker_engine, started, stand_in_image
    ):
        theirs = docker_engine.client().containers.create(stand_in_image, name="hearth-r1-g1")

        with pytest.raises(RuntimeFault, match="another host") as caught:
            await started(DEAF)

        assert caught.value.code == "refused"
        theirs.remove()

    async def test_nothing_is_left_of_one_that_cannot_start(self, runtime, started, tmp_path):
        gone = Mount(source=tmp_path / "nowhere", target="/weights")

        with pytest.raises(RuntimeFault, match="nowhere"):
            await started(DEAF, mounts=(gone,))

        assert await runtime.find() == []


class TestEnd:
    async def test_the_exit_code_is_known(self, runtime, started):
        await started("raise SystemExit(3)")

        assert (await _ends(runtime)).exit_code == 3

    async def test_too_much_memory_is_told_as_such(self, runtime, started):
        await started("held = bytearray(b'x' * (200 << 20))", memory_bytes=64 << 20)

        ended = await _ends(runtime)

        assert ended.out_of_memory
        assert ended.exit_code == 137


class TestStop:
    async def test_lets_the_engine_end_by_itself(self, runtime, started):
        await started(SAYS_TERM)
        instance = await _prints(runtime, "ready")

        stopped = await runtime.stop(instance, DEADLINE_SECONDS)

        assert stopped.exit_code == 7
        assert await runtime.log_tail(stopped, 1) == ["draining"]

    async def test_kills_after_the_grace(self, runtime, started):
        await started(DEAF)
        instance = await _prints(runtime, "ready")

        stopped = await runtime.stop(instance, 1)

        assert not stopped.running
        assert stopped.exit_code == 137

    async def test_stop_and_remove_are_fine_with_one_that_is_gone(self, runtime, started):
        instance = await started(DEAF)
        await runtime.stop(instance, 1)
        await runtime.remove(instance)

        stopped = await runtime.stop(instance, 1)
        await runtime.remove(instance)

        assert not stopped.running
        assert await runtime.log_tail(instance, 5) == []


class TestSocket:
    async def test_the_agent_reaches_the_engine_through_the_run_folder(
        self, runtime, started, tmp_path
    ):
        program = (
            "import socket\n"
            "server = socket.socket(socket.AF_UNIX); server.bind('/run/hearth/engine.sock')\n"
            "server.listen(); print('ready')\n"
            "server.accept()[0].sendall(b'hello')\n"
        )
        await started(program)
        await _prints(runtime, "ready")

        answer = await asyncio.to_thread(_read_socket, tmp_path / "r1-g1" / "engine.sock")
        await runtime.stop((await runtime.find())[0], 1)
        await started(program)  # the first one's socket is still in the folder
        await _prints(runtime, "ready")

        assert answer == b"hello"
        assert stat.S_IMODE((tmp_path / "r1-g1").stat().st_mode) == 0o700


class TestMemory:
    async def test_what_is_held_is_measured(self, runtime, started):
        program = (
            "held = bytearray(b'x' * (100 << 20)); print('fed'); import signal; signal.pause()"
        )
        await started(program)
        instance = await _prints(runtime, "fed")

        held = await runtime.memory_bytes(instance)

        assert held is not None
        assert 100 << 20 < held < 200 << 20


class TestPrepare:
    async def test_an_image_that_is_here_is_taken(self, runtime, stand_in_image):
        version = await runtime.prepare(EngineKind.VLLM, "cpu", stand_in_image, print)

        assert version == "0.32.0"
        assert await runtime.can_have(stand_in_image)

    async def test_a_local_image_that_is_missing_is_never_asked_of_a_registry(self, runtime):
        with pytest.raises(RuntimeFault, match=r"deploy/engine-image/build\.sh") as caught:
            await runtime.prepare(EngineKind.VLLM, "cpu", "hearth/absent:1", print)

        assert caught.value.code == "image_missing"
        assert not await runtime.can_have("hearth/absent:1")

    async def test_an_image_that_no_registry_gives_is_missing(self, runtime):
        image = "registry.invalid/vllm/vllm-openai:v0.32.0"

        with pytest.raises(RuntimeFault, match=r"registry\.invalid") as caught:
            await runtime.prepare(EngineKind.VLLM, "cuda", image, print)

        assert caught.value.code == "image_missing"
        assert not await runtime.can_have(image)


class TestDaemon:
    async def test_one_that_is_not_there_is_down(self, monkeypatch, tmp_path):
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
        runtime = DockerRuntime(host_id="h1", engines_root=tmp_path)

        with pytest.raises(RuntimeFault, match=r"absent\.sock") as caught:
            await runtime.check()

        assert caught.value.code == "docker_down"

    async def test_one_that_hangs_is_down_until_it_answers(
        self, docker_engine, monkeypatch, tmp_path
    ):
        monkeypatch.setenv("DOCKER_HOST", docker_engine.address)
        runtime = DockerRuntime(host_id="h1", engines_root=tmp_path, call_seconds=1.0)
        await runtime.check()
        docker_engine.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(RuntimeFault) as caught:
                await runtime.find()
        finally:
            docker_engine.process.send_signal(signal.SIGCONT)

        assert caught.value.code == "docker_down"
        assert await runtime.find() == []

    async def test_one_that_comes_back_is_used_again(self, monkeypatch, tmp_path):
        with private_docker() as daemon:
            monkeypatch.setenv("DOCKER_HOST", daemon.address)
            runtime = DockerRuntime(host_id="h1", engines_root=tmp_path)
            await runtime.check()
            await asyncio.to_thread(daemon.stop)
            with pytest.raises(RuntimeFault) as caught:
                await runtime.find()
            await asyncio.to_thread(daemon.start)

            assert caught.value.code == "docker_down"
            assert await runtime.find() == []


def _read_socket(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect(str(path))
        return client.recv(100)
