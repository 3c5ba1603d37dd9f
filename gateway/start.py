"""Reads the settings, runs the program, turns failures into exit codes. Called by `__main__`."""

import logging
import os
import sys

import uvloop

from gateway import forms
from gateway.home import HomeError
from gateway.program import StartError, run
from gateway.settings import SettingsError, read

CANNOT_START = 2

log = logging.getLogger("gateway")


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    if arguments == ["--version"]:
        sys.stdout.write(f"hearth gateway, {forms.active()}\n")
        return 0
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = read(arguments, os.environ)
        log.info("the hot modules run %s", forms.active())
        uvloop.run(run(settings))
    except (SettingsError, StartError, HomeError) as error:
        sys.stderr.write(f"gateway: {error}\n")
        return CANNOT_START
    return 0
