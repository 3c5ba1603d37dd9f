"""The process runtime with small programs in place of engines; every process is real."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.runtimes import cgroups, procfs
from agents.runtimes.base import (
    LABEL_GENERATION,
    LABEL_HOST,
    LABEL_REPLICA,
    Instance,
    Launch,
)
from agents.runtimes.process import ProcessRuntime
from agents.wire import EngineKind

DEADLINE_SECONDS = 15.0

SAYS_TERM = """
import signal, sys, time
def end(*_): print("draining", flush=True); sys.exit(7)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True: signal.pause()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()
"""
WITH_WORKER = """
import os, signal, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("worker", worker.pid, flush=True)
signal.pause()
"""
HUNGRY = """
import signal
print("ready", flush=True)
held = bytearray(b"x" * (200 << 20))
print("fed", flush=True)
signal.pause()
"""


async def _bring(engine, device, tell):
    return "1.2.3"


@pytest.fixture
def runtime(tmp_path):
    return ProcessRuntime(tmp_path / "processes", _bring)


@pytest.fixture
async def started(runtime):
    """Start programs; whatever still runs in the end is killed."""

    async def start(program, *, using=runtime, **changes):
        return await using.start(_launch(using.state_dir.parent, program, **changes))

    yield start
    for instance in await runtime.find():
        await runtime.stop(instance, 0)
        await runtime.remove(instance)


def _launch(folder: Path, program: str, *, generation: int = 1, **changes) -> Launch:
    defaults = {
        "name": f"hearth-r1-g{generation}",
        "labels": {LABEL_REPLICA: "r1", LABEL_GENERATION: str(generation), LABEL_HOST: "h1"},
        "engine": EngineKind.VLLM,
        "device": "cpu",
        "argv": (sys.executable, "-c", program),
        "env": {},
        "run_dir": folder / f"r1-g{generation}",
    }
    return Launch(**(defaults | changes))


async def _until(runtime, condition) -> Instance:
    """Return the only instance once `condition` holds for it."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            (instance,) = await runtime.find()
            if await condition(instance):
                return instance
            await asyncio.sleep(0.02)


async def _prints(runtime, word: str) -> Instance:
    async def condition(instance):
        return word in " ".join(await runtime.log_tail(instance, 50))

    return await _until(runtime, condition)


async def _ends(runtime) -> Instance:
    async def condition(instance):
        return not instance.running

    return await _until(runtime, condition)


class TestStart:
    async def test_runs_the_program_and_keeps_its_output(self, runtime, started):
        instance = await started("print('one\\ntwo', flush=True); import signal; signal.pause()")

        await _prints(runtime, "two")

        assert instance.running
        assert instance.generation == 1
        assert await runtime.log_tail(instance, 1) == ["two"]

    async def test_starting_twice_gives_the_same_process(self, runtime, started):
        first = await started(DEAF)
        second = await started(DEAF)

        assert first.ref == second.ref
        assert len(await runtime.find()) == 1

    async def test_starting_at_the_same_time_gives_one_process(self, runtime, started):
        first, second = await asyncio.gather(started(DEAF), started(DEAF))

        assert first.ref == second.ref

    async def test_a_program_that_does_not_exist_is_an_exit_with_a_reason(self, runtime, started):
        await started("", argv=("/nonexistent/vllm", "serve"))

        ended = await _ends(runtime)

        assert ended.exit_code == 127
        assert "cannot start /nonexistent/vllm" in (await runtime.log_tail(ended, 5))[0]

    async def test_an_ended_one_of_that_name_is_replaced(self, runtime, started):
        await started("raise SystemExit(3)")
        await _ends(runtime)

        again = await started(DEAF)

        assert again.running

    async def test_a_socket_that_a_killed_one_left_is_not_in_the_way(self, runtime, started):
        program = (
            "import os, signal, socket\n"
            "socket.socket(socket.AF_UNIX).bind('engine.sock')\n"
            "print('bound', flush=True)\n"
            "signal.pause()\n"
        )
        instance = await started(program)
        await _prints(runtime, "bound")
        await runtime.stop(instance, 0)

        await started(program)

        assert (await _prints(runtime, "bound")).running

    async def test_the_agents_secrets_do_not_reach_the_engine(self, tmp_path, started):
        environ = {"PATH": "/usr/bin:/bin", "HEARTH_JOIN_TOKEN": "secret"}
        runtime = ProcessRuntime(tmp_path / "processes", _bring, environ=environ)
        await started(
            "import os; print(sorted(os.environ))", using=runtime, env={"VLLM_API_KEY": "k"}
        )

        ended = await _ends(runtime)

        (line,) = await runtime.log_tail(ended, 5)
        assert "VLLM_API_KEY" in line
        assert "HEARTH_JOIN_TOKEN" not in line

    async def test_gpus_are_given_by_uuid(self, runtime, started):
        await started(
            "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", gpu_uuids=("GPU-a", "GPU-b")
        )

        ended = await _ends(runtime)

        assert await runtime.log_tail(ended, 5) == ["GPU-a,GPU-b"]

    async def test_what_may_hold_a_key_is_readable_by_its_owner_alone(self, runtime, started):
        await started(DEAF, env={"VLLM_API_KEY": "k"})

        mode = (runtime.state_dir / "hearth-r1-g1" / "launch.json").stat().st_mode

        assert mode & 0o077 == 0


class TestEnd:
    async def test_the_exit_code_is_known(self, runtime, started):
        await started("raise SystemExit(3)")

        ended = await _ends(runtime)

        assert ended.exit_code == 3
        assert not ended.out_of_memory

    async def test_a_signal_counts_as_128_and_its_number(self, runtime, started):
        instance = await started(DEAF)
        await _prints(runtime, "ready")
        os.kill(int(instance.ref), signal.SIGKILL)

        ended = await _ends(runtime)

        assert ended.exit_code == 137

    async def test_workers_that_outlive_the_engine_are_ended(self, runtime, started):
        instance = await started(WITH_WORKER)
        await _prints(runtime, "worker")
        worker = int((await runtime.log_tail(instance, 1))[0].split()[1])
        os.kill(int(instance.ref), signal.SIGKILL)

        await _ends(runtime)

        found = procfs.stat(worker)
        assert found is None or not found.is_alive


class TestStop:
    async def test_lets_the_engine_end_by_itself(self, runtime, started):
        instance = await started(SAYS_TERM)
        await _prints(runtime, "ready")

        stopped = await runtime.stop(instance, DEADLINE_SECONDS)

        assert stopped.exit_code == 7
        assert (await runtime.log_tail(stopped, 1)) == ["draining"]

    async def test_kills_after_the_grace(self, runtime, started):
        instance = await started(DEAF)
        await _prints(runtime, "ready")

        stopped = await runtime.stop(instance, 0.2)

        assert not stopped.running
        assert stopped.exit_code == 137

    async def test_workers_are_not_told_before_the_engine_is(self, runtime, started):
        program = (
            "import signal, subprocess, sys\n"
            "worker = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
            "def end(*_): print('worker alive:', worker.poll() is None, flush=True); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "print('ready', flush=True)\n"
            "while True: signal.pause()\n"
        )
        instance = await started(program)
        await _prints(runtime, "ready")

        stopped = await runtime.stop(instance, DEADLINE_SECONDS)

        assert await runtime.log_tail(stopped, 1) == ["worker alive: True"]

    async def test_is_fine_with_one_that_is_gone(self, runtime, started):
        instance = await started("raise SystemExit(0)")
        ended = await _ends(runtime)
        await runtime.remove(ended)

        stopped = await runtime.stop(instance, 1)

        assert not stopped.running


class TestAdoption:
    async def test_another_agent_finds_what_a_killed_one_started(self, tmp_path):
        _start_from_an_agent_that_is_killed(tmp_path, SAYS_TERM)
        runtime = ProcessRuntime(tmp_path / "processes", _bring)

        instance = await _prints(runtime, "ready")

        assert instance.running
        assert (await runtime.stop(instance, DEADLINE_SECONDS)).exit_code == 7

    async def test_the_exit_code_is_known_though_no_agent_was_there(self, tmp_path):
        _start_from_an_agent_that_is_killed(tmp_path, "raise SystemExit(5)")
        runtime = ProcessRuntime(tmp_path / "processes", _bring)

        ended = await _ends(runtime)

        assert ended.exit_code == 5
        assert ended.labels[LABEL_HOST] == "h1"

    async def test_a_recycled_pid_is_not_taken_for_the_engine(self, runtime, started):
        instance = await started(DEAF)
        await _prints(runtime, "ready")
        await runtime.stop(instance, 0)
        folder = runtime.state_dir / instance.name
        who = json.loads((folder / "pid.json").read_text())
        with _bystander() as bystander:
            pids = {"pid": bystander.pid, "shim_pid": bystander.pid}
            (folder / "pid.json").write_text(json.dumps(who | pids))
            (folder / "exit.json").unlink()

            (found,) = await runtime.find()
            await runtime.stop(found, 0)

            assert not found.running
            assert found.exit_code is None
            assert bystander.poll() is None

    async def test_after_a_reboot_nothing_runs(self, runtime, started):
        instance = await started(DEAF)
        path = runtime.state_dir / instance.name / "pid.json"
        who = json.loads(path.read_text())
        path.write_text(json.dumps(who | {"boot_id": "another"}))

        (found,) = await runtime.find()
        path.write_text(json.dumps(who))

        assert not found.running

    async def test_an_engine_whose_parent_was_killed_still_counts(self, runtime, started):
        instance = await started(SAYS_TERM)
        await _prints(runtime, "ready")
        who = json.loads((runtime.state_dir / instance.name / "pid.json").read_text())
        os.kill(who["shim_pid"], signal.SIGKILL)

        (found,) = await runtime.find()
        stopped = await runtime.stop(found, DEADLINE_SECONDS)

        assert found.running
        assert not stopped.running
        assert stopped.exit_code is None


@contextmanager
def _bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that has nothing to do with anything."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _start_from_an_agent_that_is_killed(folder: Path, program: str) -> None:
    """Start `program` from another Python, which is killed as soon as the start returned."""
    source = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from agents.runtimes.process import ProcessRuntime\n"
        "from tests.agents.runtimes.test_process import _bring, _launch\n"
        "folder = Path(sys.argv[1])\n"
        "runtime = ProcessRuntime(folder / 'processes', _bring)\n"
        "asyncio.run(runtime.start(_launch(folder, sys.argv[2])))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(folder), program],
        timeout=DEADLINE_SECONDS,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


class TestMemory:
    @pytest.mark.parametrize("use_cgroups", [True, False], ids=["control group", "watchdog"])
    async def test_too_much_is_killed_and_told_as_such(self, tmp_path, started, use_cgroups):
        runtime = ProcessRuntime(tmp_path / "processes", _bring, use_cgroups=use_cgroups)
        await started(HUNGRY, using=runtime, memory_bytes=64 << 20)

        ended = await _ends(runtime)

        assert ended.out_of_memory
        assert ended.exit_code == 137

    @pytest.mark.parametrize("use_cgroups", [True, False], ids=["control group", "PSS"])
    async def test_what_is_held_is_measured(self, tmp_path, started, use_cgroups):
        runtime = ProcessRuntime(tmp_path / "processes", _bring, use_cgroups=use_cgroups)
        await started(HUNGRY, using=runtime, memory_bytes=1 << 30)
        instance = await _prints(runtime, "fed")

        held = await runtime.memory_bytes(instance)

        assert held is not None
        assert 200 << 20 < held < 300 << 20

    async def test_the_control_group_goes_with_the_instance(self, tmp_path, runtime, started):
        group = cgroups.create("hearth-test-probe", 1 << 30)
        if group is None:
            pytest.fail("this machine lets nobody make control groups: run the tests as root")
        group.remove()
        instance = await started(DEAF, memory_bytes=1 << 30)
        launch = json.loads((runtime.state_dir / instance.name / "launch.json").read_text())
        made = _is_folder(launch["cgroup"])

        await runtime.remove(await runtime.stop(instance, 0))

        assert made
        assert not _is_folder(launch["cgroup"])


class TestLog:
    async def test_stays_under_its_limit_and_keeps_the_last_lines(self, tmp_path, started):
        runtime = ProcessRuntime(tmp_path / "processes", _bring, log_limit_bytes=10_000)
        program = (
            "import signal, threading\n"
            "for n in range(1000): print('line', n, 'x' * 50, flush=True)\n"
            "print('done', flush=True)\n"
            "signal.pause()\n"
        )
        await started(program, using=runtime)
        instance = await _prints(runtime, "done")
        log = tmp_path / "r1-g1" / "hearth-r1-g1.log"

        await asyncio.to_thread(_wait_until, lambda: log.stat().st_size <= 10_000)

        assert (await runtime.log_tail(instance, 2))[-1] == "done"

    async def test_bytes_that_are_no_text_do_not_break_it(self, runtime, started):
        await started("import os; os.write(1, b'caf\\xe9\\n')")

        ended = await _ends(runtime)

        assert await runtime.log_tail(ended, 1) == ["caf\N{REPLACEMENT CHARACTER}"]

    async def test_is_gone_with_the_instance(self, tmp_path, runtime, started):
        await started("print('bye')")
        ended = await _ends(runtime)

        await runtime.remove(ended)

        assert list((tmp_path / "r1-g1").iterdir()) == []
        assert await runtime.find() == []


class TestPrepare:
    async def test_brings_the_engines_environment(self, runtime):
        assert await runtime.prepare(EngineKind.VLLM, "cpu", "", print) == "1.2.3"


def _is_folder(path: str) -> bool:
    return Path(path).is_dir()


def _wait_until(condition) -> None:
    pause = threading.Event()
    for _ in range(int(DEADLINE_SECONDS / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("the condition did not come true in time")
