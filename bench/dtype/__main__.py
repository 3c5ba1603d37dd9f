"""`python -m bench.dtype`: bfloat16 against float32 on this CPU, with the real engine.

Times MiniLM (16 abstracts of about 230 tokens) and SmolLM2 (a prompt of about 960 tokens; 32 tokens
of an answer) in both formats, three interleaved rounds, one thread as the catalog has it, and
prints medians and ratios beside what `engine_support.fast_cpu_dtype` chooses for this CPU.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from agents import engine_support
from agents.cpu import cpu_features
from agents.engines.environment import cache_root, default_root, ensure_environment
from agents.weights.store import Weights
from agents.wire import Progress
from apps.catalog.catalog import BUILT_IN
from apps.catalog.reading import read_entry
from apps.catalog.weights import weights_ref

MODELS = {"pooling": "all-minilm-l6-v2", "generate": "smollm2-135m-instruct"}
FORMATS = ("bfloat16", "float32")
ROUNDS = 3
DEADLINE_SECONDS = 900.0


def main() -> int:
    """Measure and print; return the exit code."""
    seconds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    jobs = [(runner, dtype) for _ in range(ROUNDS) for runner in MODELS for dtype in FORMATS]
    for (_, dtype), parts in zip(jobs, _measured(jobs), strict=True):
        for part, took in parts.items():
            seconds[part, dtype].append(took)
    print(f"{'part':<10}" + "".join(f"{dtype:>14}" for dtype in FORMATS) + f"{'float32 is':>18}")
    for part in ("embed", "prefill", "decode"):
        narrow, wide = (statistics.median(seconds[part, dtype]) for dtype in FORMATS)
        print(f"{part:<10}{narrow:>12.2f} s{wide:>12.2f} s{narrow / wide:>11.2f} x as fast")
    features = cpu_features() or frozenset()
    print(
        f"this CPU has {', '.join(sorted(features & engine_support.CPU_FEATURES)) or 'none'} of "
        f"{', '.join(sorted(engine_support.CPU_FEATURES))}: Hearth takes "
        f"{engine_support.fast_cpu_dtype(features) or 'the format of the model'}"
    )
    return 0


def _measured(jobs: list[tuple[str, str]]) -> list[dict[str, float]]:
    python, folders = asyncio.run(_bring())
    work = [
        {
            "runner": runner,
            "config": {
                "model": folders[runner], "runner": runner, "dtype": dtype, "enforce_eager": True,
                "max_model_len": 256 if runner == "pooling" else 2048,
                "kv_cache_memory_bytes": 256 * 1024**2,
            },
        }
        for runner, dtype in jobs
    ]  # fmt: skip
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as scratch:
        listed = Path(scratch, "jobs.json")
        listed.write_text(json.dumps(work))
        done = subprocess.run(
            [python, Path(__file__).with_name("timed.py"), listed],
            env={**environment, "VLLM_CACHE_ROOT": f"{scratch}/cache"},
            cwd=scratch,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=True,
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


async def _bring() -> tuple[Path, dict[str, str]]:
    environment = await ensure_environment(default_root(), "cpu", _ignore)
    store = Weights(cache_root() / "weights")
    folders = {}
    for runner, slug in MODELS.items():
        variant = read_entry(BUILT_IN / f"{slug}.yaml").ranked_variants[0]
        folders[runner] = str(await store.ensure(weights_ref(variant), _ignore))
    return environment.python, folders


def _ignore(_progress: Progress) -> None:
    """Say nothing while things are brought."""


if __name__ == "__main__":
    sys.exit(main())
