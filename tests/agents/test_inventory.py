"""What a host says of itself; its GPUs by the real NVML binding over a stub of NVML's library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.inventory import Gpus, Host, lasting
from agents.wire import GpuInfo, Inventory, RuntimeKind, decode

STUB = Path(__file__).parent / "stubs" / "fake_nvml.c"
READ = """
import sys
from pathlib import Path
from agents.inventory import Gpus, Host
from agents.wire import RuntimeKind, encode
host = Host(Path("."), Gpus(), RuntimeKind.PROCESS, "")
sys.stdout.write(encode(host.inventory({}, "")).decode())
"""
COMPILE_SECONDS = 60.0
READ_SECONDS = 60.0


def compile_stub(folder: Path, *flags: str) -> Path:
    """Compile the stub into `folder` under the name that the binding loads."""
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", *flags, "-o", str(library), str(STUB)],
        check=True,
        timeout=COMPILE_SECONDS,
    )
    return folder


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_stub(tmp_path_factory.mktemp("nvml"))


def read_in_a_child(folder: Path, fake: str, **more: str) -> Inventory:
    """Return the inventory of a process that finds the stub as its NVML."""
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML": fake, **more}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
        timeout=READ_SECONDS,
    )
    return decode(Inventory, done.stdout)


class TestGpus:
    def test_are_told_with_all_that_nvml_knows(self, stub: Path) -> None:
        inventory = read_in_a_child(stub, "2:81920:1024:37:250000:NVIDIA H100 80GB HBM3")

        assert inventory.driver_version == "580.65.06"
        assert inventory.gpus[1] == GpuInfo(
            uuid="GPU-00000000-0000-0000-0000-000000000001",
            index=1,
            name="NVIDIA H100 80GB HBM3",
            memory_total_bytes=80 << 30,
            memory_used_bytes=1 << 30,
            compute_capability="9.0",
            utilization_ratio=0.37,
            power_watts=250.0,
            temperature_celsius=51.0,
        )

    def test_that_cannot_tell_their_power_are_told_without_it(self, tmp_path: Path) -> None:
        inventory = read_in_a_child(compile_stub(tmp_path, "-DWITHOUT_POWER"), "1")

        assert inventory.gpus[0].power_watts is None
        assert inventory.gpus[0].utilization_ratio == 0.37

    def test_that_fell_off_the_bus_are_left_out(self, stub: Path) -> None:
        assert read_in_a_child(stub, "1:100:200").gpus == ()

    def test_are_told_with_the_group_that_nvlink_joins(self, stub: Path) -> None:
        inventory = read_in_a_child(stub, "4", FAKE_NVLINK="2")

        assert [gpu.nvlink_group for gpu in inventory.gpus] == [0, 0, 2, 2]

    def test_are_told_as_slices_where_they_are_cut_up(self, stub: Path) -> None:
        inventory = read_in_a_child(stub, "2:20480:0", FAKE_MIG="3")

        assert len(inventory.gpus) == 6
        first = inventory.gpus[0]
        assert first.uuid.startswith("MIG-")
        assert first.parent_uuid == "GPU-00000000-0000-0000-0000-000000000000"
        assert (first.memory_total_bytes, first.nvlink_group) == (20 << 30, None)
        assert len({gpu.uuid for gpu in inventory.gpus}) == 6

    def test_are_none_without_a_driver(self, tmp_path: Path) -> None:
        inventory = read_in_a_child(tmp_path, "2")

        assert (inventory.gpus, inventory.driver_version) == ((), "")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, Gpus(), RuntimeKind.PROCESS, "no Docker here")


class TestHost:
    def test_tells_its_machine(self, host: Host) -> None:
        inventory = host.inventory({"vllm": "0.32.0"}, "http://relay:1")

        assert inventory.cpu_count == len(os.sched_getaffinity(0))
        assert inventory.memory_total_bytes >= inventory.memory_available_bytes > 0
        assert inventory.disk_total_bytes >= inventory.disk_free_bytes > 0
        assert inventory.boot_id
        assert (inventory.runtime, inventory.runtime_reason) == ("process", "no Docker here")

    def test_samples_what_changes(self, host: Host) -> None:
        sample = host.sample(12.0)

        assert sample.at == 12.0
        assert 0 <= sample.cpu_ratio <= 1
        assert sample.memory_used_bytes > 0

    def test_is_worth_telling_again_only_when_something_lasting_changed(self, host: Host) -> None:
        first = lasting(host.inventory({}, "http://relay:1"))

        assert lasting(host.inventory({}, "http://relay:1")) == first
        assert lasting(host.inventory({}, "http://relay:2")) != first
        assert lasting(host.inventory({"vllm": "1"}, "http://relay:1")) != first
