"""Fixtures of the engines' tests."""

from tests.e2e.engine_host import (  # noqa: F401
    docker_engine,
    engine_environment,
    engine_image,
    minilm,
    smollm2,
    weights,
)
