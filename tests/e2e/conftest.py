"""Fixtures of the end-to-end stories. Nothing here is skipped: a missing part is a failure."""

from collections.abc import Iterator

import pytest

from tests.e2e.engine_host import (  # noqa: F401
    docker_engine,
    engine_environment,
    engine_image,
    minilm,
    smollm2,
    weights,
)
from tests.running import Hearth, hearth


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skip into a failure: a story that was not run has not passed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and a story must be run"
    return report


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    engine_environment: object,  # noqa: F811
) -> Iterator[Hearth]:
    """A Hearth whose local host runs the real vLLM as plain processes."""
    data = tmp_path_factory.mktemp("served") / "data"
    with hearth(data, HEARTH_RUNTIME="process") as instance:
        yield instance
