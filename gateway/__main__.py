"""`python -m gateway`: reads the settings, runs the program, turns failures into exit codes."""

import logging
import os
import sys

import uvloop

from gateway.home import HomeError
from gateway.program import StartError, run
from gateway.settings import SettingsError, read

CANNOT_START = 2


def main() -> int:
    """Return the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = read(sys.argv[1:], os.environ)
        uvloop.run(run(settings))
    except (SettingsError, StartError, HomeError) as error:
        sys.stderr.write(f"gateway: {error}\n")
        return CANNOT_START
    return 0


if __name__ == "__main__":
    sys.exit(main())
