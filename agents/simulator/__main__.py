"""The program: `python -m agents.simulator --uds PATH --served-model-name NAME …`."""

import logging
import sys

import uvloop

from agents.simulator.options import Options, parse_options
from agents.simulator.server import Server


async def _run(options: Options) -> int:
    return await Server(options).run()


def main() -> int:
    """Run one simulated engine; return its exit code."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stdout,
        format="%(levelname)s %(asctime)s [simulator] %(message)s",
        datefmt="%m-%d %H:%M:%S",
    )
    return uvloop.run(_run(parse_options(sys.argv[1:])))


if __name__ == "__main__":
    sys.exit(main())
