"""GPUs for tests on machines without: a stand-in NVML under the real nvidia-ml-py.

The variables that `fake_gpus` returns go to a new process (an agent, say): a running one has
already decided where it looks for libraries. Containers with GPUs: see `engine_host`, whose Docker
Engine takes GPU requests.
"""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stub.c")
UUIDS = tuple(f"GPU-00000000-0000-0000-0000-{index:012d}" for index in range(64))
"""UUIDs of the stand-in's GPUs, by index."""


def fake_gpus(
    folder: Path, *, count: int = 2, total_mib: int = 81920, name: str = "NVIDIA H100 80GB HBM3"
) -> dict[str, str]:
    """Build the stand-in in `folder`; return the variables under which a process sees GPUs."""
    library = folder / "libnvidia-ml.so.1"
    command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return {
        "LD_LIBRARY_PATH": str(folder),
        "HEARTH_FAKE_GPUS": f"{count}:{total_mib}:1024:37:250000:{name}",
    }
