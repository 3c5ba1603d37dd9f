"""One whole Hearth on the simulator for all flow stories of a session."""

from collections.abc import Iterator

import httpx
import pytest

from tests.running import Hearth, hearth


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hearth]:
    """A Hearth that serves every deployment by the simulator."""
    data = tmp_path_factory.mktemp("simulated") / "data"
    with hearth(data, HEARTH_ENGINE="simulator", HEARTH_RUNTIME="process") as instance:
        yield instance


@pytest.fixture(scope="session")
def client(simulated: Hearth) -> httpx.Client:
    """An application with an API key."""
    return simulated.client(simulated.key())
