"""`make bench-placement`: how fast a large fleet is planned, and that a burst books nothing twice.

    python -m bench.placement [--controllers N]

`plan`: 1,000 replicas of one deployment on 200 simulated hosts of 8 GPUs, one pure plan. `burst`:
50 deployments of 2 GPUs each ordered at once, on the same fleet in a database of its own, placed by
N controller processes that know nothing of each other. The exit code is 1 when a target is missed
or a GPU was booked twice. Run it on a machine that does nothing else.
"""

import argparse
import os
import sys
import tempfile

from bench.main.figures import Result


def main() -> int:
    """Measure both; return the exit code."""
    options = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    options.add_argument("--controllers", type=int, default=2, help="(default: %(default)s)")
    controllers = options.parse_args().controllers
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        os.environ["HEARTH_DATA_DIR"] = folder
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
        from bench.placement import burst, planning  # noqa: PLC0415 - Django reads the folder here

        results: list[Result] = [planning.measure(), burst.measure(controllers)]
    for result in results:
        print(result.text() + "\n")
    return int(any(figure.is_met is False for result in results for figure in result.figures))


if __name__ == "__main__":
    sys.exit(main())
