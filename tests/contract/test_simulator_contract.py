"""The simulator keeps the engine contract."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.engine_contract import EngineContract, EngineUnderTest
from tests.simulator_host import MODEL, Simulator, running


@pytest.fixture(scope="module")
def simulator(tmp_path_factory) -> Iterator[Simulator]:
    with running(tmp_path_factory.mktemp("simulator")) as one:
        yield one


class TestSimulator(EngineContract):
    @pytest.fixture
    async def engine(self, simulator) -> AsyncIterator[EngineUnderTest]:
        async with simulator.client() as client:
            yield EngineUnderTest(client=client, model=MODEL, block_tokens=16, has_dev_mode=True)
