"""`python -m bench.quantized [METHOD ...]`: what a CPU is offered of quantizations, on real vLLM.

Makes copies of SmolLM2 in each stored format (`bench/quantize.py`: plain rounding, no calibration),
and serves each through an agent with the product's own flags and checks, one after the other: the
support table, the first answers beside those of the unquantized model, one chat. Prints a row for
each; the exit code is 1 when one that the table offers does not serve, or one that it refuses does.
About a minute each; METHOD names those to run.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from agents import cpu, engine_support
from agents.answers import AnswersBaseline
from agents.engines.environment import (
    Environment,
    cache_root,
    default_root,
    ensure_environment,
    tree_bytes,
)
from agents.weights.store import Weights
from agents.wire import ReplicaReport, WeightsRef
from bench.main.figures import Result
from tests.e2e.engine_host import REPOSITORY, SMOLLM2, say
from tests.e2e.one_replica import Ground, one_replica

QUESTION = "What is the capital of France?"
ANSWER = "Paris"
ANSWER_TOKENS = 48
LIVE = AnswersBaseline(revision=1, perplexity=8.7)
"""A little better than SmolLM2 shows unquantized, which is 9.3."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to quantize, and the setting that asks for it."""

    stored: str = ""
    """Argument of `bench/quantize.py`; empty: the engine converts the weights itself."""
    quantization: str | None = None


METHODS = {
    "none": Method(),
    "w8a8": Method(stored="w8a8", quantization="compressed-tensors"),
    "w4a16": Method(stored="w4a16", quantization="compressed-tensors"),
    "gptq": Method(stored="gptq", quantization="gptq"),
    "awq": Method(stored="awq", quantization="awq"),
    "int8": Method(quantization="int8_per_channel_weight_only"),
    "fp8": Method(quantization="fp8"),
    "mxfp8": Method(quantization="mxfp8"),
}


def main() -> int:
    """Serve each method and print what it showed; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantized", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--unchecked", action="store_true", help="ask the engine what is refused")
    asked = parser.parse_args()
    if unknown := set(asked.methods) - set(METHODS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(METHODS)}")
    result = Result(part="quantized", question="does what is offered on a CPU serve there?")
    result.table = [("method", "MiB", "start s", "perplexity", "tokens/s", "outcome")]
    right = True
    # A short path: the engine's socket lies below it.
    with tempfile.TemporaryDirectory(prefix="hearth-q-") as folder:
        for name in asked.methods or METHODS:
            place = Path(folder) / name
            place.mkdir()
            row, as_told = asyncio.run(_served(place, name, not asked.unchecked))
            print(" | ".join(row), file=sys.stderr, flush=True)
            result.table.append(row)
            right = right and as_told
    print(result.text())
    return int(not right)


async def _served(folder: Path, name: str, checks: bool) -> tuple[tuple[str, ...], bool]:
    """Return the row of one method, and whether it came out as the support table says."""
    method = METHODS[name]
    environment = await ensure_environment(default_root(), "cpu", say)
    weights = Weights(cache_root() / "weights")
    whole = await weights.ensure(SMOLLM2, say)
    ref, model = SMOLLM2, whole
    if method.stored:
        model = await asyncio.to_thread(_quantize, environment, whole, folder, method.stored)
        ref = WeightsRef(key=name, source=f"path:{model}")
    ground = Ground(folder=folder, environment=environment, weights=weights, checks_support=checks)
    began = time.monotonic()
    async with one_replica(ground, ref, LIVE, quantization=method.quantization) as report:
        seconds = time.monotonic() - began
        served = report.phase == "ready"
        words, rate = await _asked(report) if served else (report.reason, 0.0)
    perplexity = report.answers.perplexity if report.answers else None
    row = (
        name, f"{tree_bytes(model) / 2**20:.0f}", f"{seconds:.0f}",
        f"{perplexity:.1f}" if perplexity else "", f"{rate:.1f}" if rate else "",
        " ".join(words.split())[:160],
    )  # fmt: skip
    return row, served == _is_offered(method) and (not served or ANSWER in words)


def _is_offered(method: Method) -> bool:
    """Return whether the support table lets this host's CPU run `method`."""
    features, quantization = cpu.features() or frozenset(), method.quantization or ""
    return not (
        engine_support.why_not("quantization", quantization, "cpu")
        or engine_support.cpu_lacks("quantization", quantization, features)
        or engine_support.cpu_lacks("stored", method.stored, features)
    )


def _quantize(environment: Environment, whole: Path, folder: Path, stored: str) -> Path:
    """Return a copy of the weights of `whole` in `folder`, quantized; made once, then kept."""
    kept = cache_root() / "quantized" / f"{whole.name}-{stored}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        maker, out = REPOSITORY / "bench" / "quantize.py", folder / "made"
        command = [environment.python, maker, whole, out, stored]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        shutil.move(out, kept)
    return Path(shutil.copytree(kept, folder / "weights"))


async def _asked(report: ReplicaReport) -> tuple[str, float]:
    """Return the answer to a chat, and the tokens a second of it, first token included."""
    assert report.endpoint is not None
    transport = httpx.AsyncHTTPTransport(uds=report.endpoint.address.removeprefix("unix:"))
    body = {
        "model": "m", "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True,
        "messages": [{"role": "user", "content": QUESTION}],
    }  # fmt: skip
    async with httpx.AsyncClient(
        transport=transport, base_url="http://engine", timeout=120
    ) as client:
        began = time.monotonic()
        answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
    seconds = time.monotonic() - began
    said = answer["choices"][0]["message"]["content"]
    return said, answer["usage"]["completion_tokens"] / seconds


if __name__ == "__main__":
    sys.exit(main())
