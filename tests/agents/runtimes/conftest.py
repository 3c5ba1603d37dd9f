"""Fixtures of the runtimes' tests."""

from tests.e2e.engine_host import (  # noqa: F401
    docker_engine,
    engine_image,
    stand_in_image,
)
