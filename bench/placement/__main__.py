"""`make bench-placement`: how fast a large fleet is planned, and that a burst books nothing twice.

    python -m bench.placement [--controllers N]

`plan`: 1,000 replicas of one deployment on 200 simulated hosts of 8 GPUs, one pure plan. `burst`:
50 deployments of 2 GPUs each ordered at once, on the same fleet in a database and a Redis of its
own, placed by N controller processes that know nothing of each other. The exit code is 1 when a
target is missed or a GPU was booked twice. Targets are of wall time: run it on a machine that does
nothing else. The seconds of a core stand beside it; they tell what the work itself costs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.main.figures import Result
from controlplane.up import redis_binary


def main() -> int:
    """Measure both; return the exit code."""
    options = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    options.add_argument("--controllers", type=int, default=2, help="(default: %(default)s)")
    controllers = options.parse_args().controllers
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder, _redis(folder) as url:
        os.environ |= {"HEARTH_DATA_DIR": folder, "REDIS_URL": url}
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
        from bench.placement import burst, planning  # noqa: PLC0415 - Django reads the folder here

        results: list[Result] = [planning.measure(), burst.measure(controllers)]
    for result in results:
        print(result.text() + "\n")
    return int(any(figure.is_met is False for result in results for figure in result.figures))


@contextmanager
def _redis(folder: str) -> Iterator[str]:
    """Run a Redis of the kind that Hearth starts; yield its address."""
    path = Path(folder) / "redis.sock"
    server = subprocess.Popen(
        [redis_binary(), "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert server.poll() is None, "Redis ended at its start"
            assert time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.05)
        yield f"unix://{path}"
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    sys.exit(main())
