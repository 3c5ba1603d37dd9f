"""The real engine's first answers: a quantized model that works may follow the live revision, a
KV-cache type that lies may not serve. One agent, real vLLM; its control plane is the test."""

import subprocess
from pathlib import Path

import pytest

from agents.answers import AnswersBaseline
from agents.wire import WeightsRef
from tests.e2e.engine_host import REPOSITORY, SMOLLM2
from tests.e2e.one_replica import Ground, one_replica

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

LIVE = AnswersBaseline(revision=1, perplexity=8.7)
"""What SmolLM2 shows unquantized."""
LOSS = 1.5
"""What 4-bit weights by plain rounding cost here: 8 bits must cost less."""


@pytest.fixture
def ground(engine_environment, weights, tmp_path) -> Ground:
    """A host whose engine takes methods that its device is known to fail at."""
    return Ground(
        folder=tmp_path, environment=engine_environment, weights=weights, checks_support=False
    )


@pytest.fixture
def w8a8(engine_environment, smollm2, tmp_path) -> Path:
    """SmolLM2 with 8-bit weights and activations, as published checkpoints store them."""
    out = tmp_path / "w8a8"
    maker = REPOSITORY / "bench" / "quantize.py"
    subprocess.run([engine_environment.python, maker, smollm2, out, "w8a8"], check=True)
    return out


async def test_a_kv_cache_type_that_lies_is_caught_before_it_serves(ground):
    async with one_replica(ground, SMOLLM2, kv_cache_dtype="turboquant_4bit_nc") as report:
        assert (report.phase, report.code) == ("failed", "bad_answers")
        assert "the answers make no sense: perplexity" in report.reason
        assert report.answers.perplexity > 1000


async def test_weights_stored_in_8_bits_may_follow_the_revision_without(ground, w8a8):
    ref = WeightsRef(key="w8a8", source=f"path:{w8a8}")

    async with one_replica(ground, ref, LIVE) as report:
        assert report.phase == "ready", report.reason
        assert report.answers.perplexity < LOSS * LIVE.perplexity
        assert "Saturday" in report.answers.words
