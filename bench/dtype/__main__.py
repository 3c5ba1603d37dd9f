"""`python -m bench.dtype`: bfloat16 against float32 on this CPU, with the real engine.

Times MiniLM (16 abstracts of about 230 tokens) and SmolLM2 (a prompt of about 960 tokens; 32 tokens
of an answer) in both formats, three interleaved rounds, one thread as the catalog has it, and
prints medians and ratios beside what `engine_support.fast_cpu_dtype` chooses for this CPU.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from agents import cpu, engine_support
from apps.catalog.catalog import BUILT_IN
from apps.catalog.reading import read_entry
from bench import engine_files

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
    features = cpu.features() or frozenset()
    print(
        f"this CPU has {', '.join(sorted(features & engine_support.CPU_FEATURES)) or 'none'} of "
        f"{', '.join(sorted(engine_support.CPU_FEATURES))}: Hearth takes "
        f"{engine_support.fast_cpu_dtype(features) or 'the format of the model'}"
    )
    return 0


def _measured(jobs: list[tuple[str, str]]) -> list[dict[str, float]]:
    python, folders = engine_files.bring(
        {
            runner: read_entry(BUILT_IN / f"{slug}.yaml").ranked_variants[0]
            for runner, slug in MODELS.items()
        }
    )
    work = [
        {
            "runner": runner,
            "config": {
                "model": str(folders[runner]), "runner": runner, "dtype": dtype,
                "enforce_eager": True,
                "max_model_len": 256 if runner == "pooling" else 2048,
                "kv_cache_memory_bytes": 256 * 1024**2,
            },
        }
        for runner, dtype in jobs
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as scratch:
        listed = Path(scratch, "jobs.json")
        listed.write_text(json.dumps(work))
        done = subprocess.run(
            [python, Path(__file__).with_name("timed.py"), listed],
            env={**os.environ, **engine_files.VARIABLES, "VLLM_CACHE_ROOT": f"{scratch}/cache"},
            cwd=scratch,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=True,
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
