"""What the agent reads of GPUs through the real nvidia-ml-py, over a stand-in of the driver."""

import os
import subprocess
import sys

import msgspec
import pytest

from agents.wire import GpuInfo
from tests.e2e.gpus import UUIDS, fake_gpus

PROGRAM = """
import msgspec
from agents.inventory import Gpus
gpus = Gpus()
print(gpus.driver_version)
print(msgspec.json.encode(gpus.read()).decode())
"""


def _read(environ: dict[str, str]) -> tuple[str, tuple[GpuInfo, ...]]:
    """Return driver version and GPUs as a new process sees them."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    version, _, gpus = done.stdout.partition("\n")
    return version, msgspec.json.decode(gpus, type=tuple[GpuInfo, ...])


def test_each_gpu_is_read_with_its_unit(tmp_path):
    version, gpus = _read(fake_gpus(tmp_path, count=2))

    assert version == "580.65.06"
    assert [gpu.uuid for gpu in gpus] == list(UUIDS[:2])
    assert gpus[1] == GpuInfo(
        uuid=UUIDS[1],
        index=1,
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 << 30,
        memory_used_bytes=1 << 30,
        compute_capability="9.0",
        utilization_ratio=0.37,
        power_watts=250.0,
        temperature_celsius=51.0,
    )


@pytest.mark.parametrize("environ", [{}, {"LD_LIBRARY_PATH": "/nonexistent"}], ids=str)
def test_without_a_driver_there_are_none(environ):
    assert _read(environ) == ("", ())


def test_a_driver_without_gpus_has_none(tmp_path):
    assert _read(fake_gpus(tmp_path, count=0)) == ("580.65.06", ())
