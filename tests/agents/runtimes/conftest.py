"""Fixtures of the runtimes' tests."""

from tests.e2e.engine_host import (  # noqa: F401
    docker_engine,
    engine_environment,
    engine_image,
    smollm2,
    stand_in_image,
    weights,
)
