"""Fixtures for the agent's tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.agents.fast_time import FastLoop
from tests.agents.host import AgentHost


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Let time pass quickly where a whole agent runs in the test's loop."""
    if "host" in getattr(item, "fixturenames", ()):
        return {"fast": FastLoop}
    return {"usual": asyncio.new_event_loop}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[AgentHost]:
    """Yield a host whose agent has not been started yet."""
    made = AgentHost(tmp_path / "agent")
    yield made
    await made.close()
