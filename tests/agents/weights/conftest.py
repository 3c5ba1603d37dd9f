"""Fixtures of the weights' tests: a web server to fetch from and a store to fetch into."""

import pytest

from agents.weights.sources import Sources
from agents.weights.store import Weights
from tests.agents.weights.shelf import open_shelf


@pytest.fixture
def shelf():
    with open_shelf() as opened:
        yield opened


@pytest.fixture
def store(shelf, tmp_path):
    sources = Sources(indexes=(f"{shelf.url}/simple",), hub=shelf.url, hub_token="hf_secret")
    return Weights(tmp_path / "weights", sources=sources)


@pytest.fixture
def told():
    """Progress that was told; a fetch gets its `append`."""
    return []
