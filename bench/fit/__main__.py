"""`make bench-fit`: the estimate against the real engine, weights and KV cache each by itself.

    python -m bench.fit [--model smollm2-135m-instruct|all-minilm-l6-v2]

Starts vLLM on CPU with SmolLM2 at three context lengths and two KV types, and with MiniLM at three
context lengths, and reads the engine's own log with the agent's reader. Weights are what the log
says of the checkpoint (two decimals of a GiB), the KV cache its capacity in tokens. The exit code
is 1 when a part is more than 10 % off. Takes two minutes, the first time five: it installs the
engine.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agents.engines.environment import cache_root, default_root, ensure_environment
from agents.engines.vllm import VllmEngine
from agents.weights.store import Weights
from agents.wire import EngineSettings, Progress
from apps.catalog import need as needs
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device, Variant
from apps.catalog.learned import WRONG_RATIO, Comparison, compare
from apps.catalog.reading import read_entry
from apps.catalog.settings import engine_settings
from apps.catalog.weights import weights_ref

SMOLLM2, MINILM = "smollm2-135m-instruct", "all-minilm-l6-v2"
KV_BYTES = 256 * 1024**2
"""Holds one request of 8,192 tokens."""
CASES: tuple[tuple[str, int, str | None], ...] = (
    *((SMOLLM2, length, kind) for kind in ("auto", "fp8") for length in (1024, 2048, 8192)),
    *((MINILM, length, None) for length in (64, 128, 256)),
)
START_SECONDS = 300.0


@dataclass(frozen=True)
class Case:
    """One model with one context length and one KV type."""

    slug: str
    variant: Variant
    settings: EngineSettings

    def predicted(self) -> dict[str, int]:
        """Return what the fit says, with nothing learned."""
        need = needs.estimate(self.variant, self.settings, Device.CPU)
        tokens = needs.kv_tokens(self.variant, self.settings, Device.CPU, need.kv_bytes)
        return {"weights_bytes": need.weights_bytes, "kv_tokens": tokens}

    def arguments(self, folder: Path) -> dict[str, object]:
        """Return the arguments of `vllm.LLM` that the agent's flags stand for."""
        given = {
            "max_model_len": self.settings.max_model_len,
            "max_num_seqs": self.settings.max_num_seqs,
            "block_size": self.settings.block_size,
            "kv_cache_dtype": self.settings.kv_cache_dtype,
            "kv_cache_memory_bytes": self.settings.kv_cache_bytes or 16 * 1024**2,
            "runner": "pooling" if self.slug == MINILM else None,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        return {
            "model": str(folder),
            "enforce_eager": True,
            "skip_tokenizer_init": self.slug == SMOLLM2,
            **chosen,
        }


def main() -> int:
    """Measure and print; return the exit code."""
    options = argparse.ArgumentParser(prog="python -m bench.fit", description=__doc__)
    options.add_argument("--model", choices=(SMOLLM2, MINILM), help="this one alone")
    wanted = options.parse_args().model
    cases = [_case(*case) for case in CASES if wanted in (None, case[0])]
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as scratch:
        logs = _start(cases, Path(scratch))
    rows = [
        (case, compare(case.predicted(), _told(log))) for case, log in zip(cases, logs, strict=True)
    ]
    _print(rows)
    return int(any(abs(part.error_ratio) > WRONG_RATIO for _, parts in rows for part in parts))


def _case(slug: str, length: int, kv_cache_dtype: str | None) -> Case:
    variant = read_entry(BUILT_IN / f"{slug}.yaml").ranked_variants[0]
    overrides: dict[str, object] = {"max_model_len": length}
    if kv_cache_dtype:
        overrides |= {"kv_cache_dtype": kv_cache_dtype, "kv_cache_bytes": KV_BYTES}
    return Case(slug, variant, engine_settings(variant, Device.CPU, overrides))


def _start(cases: list[Case], scratch: Path) -> list[str]:
    """Start every case; return what each engine printed."""
    environment, folders = asyncio.run(_bring(cases))
    configs = [case.arguments(folders[case.slug]) for case in cases]
    (scratch / "configs.json").write_text(json.dumps(configs))
    variables = {
        "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": str(scratch / "cache"),
    }  # fmt: skip
    script = Path(__file__).with_name("starts.py")
    done = subprocess.run(
        [environment.python, script, scratch / "configs.json", scratch],
        env={**os.environ, **variables},
        cwd=scratch,
        timeout=START_SECONDS,
        capture_output=True,
        text=True,
        check=False,
    )
    logs = [(scratch / f"{number}.log").read_text() for number in range(len(cases))]
    if done.returncode:
        sys.exit(
            f"{done.returncode} engines did not start:\n{done.stderr[-2000:]}\n{logs[0][-2000:]}"
        )
    return logs


async def _bring(cases: list[Case]):
    environment = await ensure_environment(default_root(), "cpu", _ignore)
    store = Weights(cache_root() / "weights")
    wanted = {case.slug: weights_ref(case.variant) for case in cases}
    return environment, {slug: await store.ensure(ref, _ignore) for slug, ref in wanted.items()}


def _ignore(_progress: Progress) -> None:
    """Say nothing while things are brought."""


def _told(log: str) -> dict[str, int]:
    """Return what the agent reads from `log`."""
    engine, told = VllmEngine(), {}
    for line in log.splitlines():
        mark = engine.read_line(line)
        if mark is None:
            continue
        told |= mark.memory
        if mark.kv_cache_tokens:
            told["kv_tokens"] = mark.kv_cache_tokens
    return told | {"weights_bytes": told.get("checkpoint_bytes", 0)}


def _print(rows: list[tuple[Case, tuple[Comparison, ...]]]) -> None:
    print(f"{'model':<24}{'context':>8}  {'KV type':<8}{'part':<15}{'estimate':>14}{'engine':>14}")
    for case, parts in rows:
        for part in parts:
            print(
                f"{case.slug:<24}{case.settings.max_model_len:>8}  "
                f"{case.settings.kv_cache_dtype or 'none':<8}{part.part:<15}"
                f"{part.predicted:>14,}{part.measured:>14,}{part.error_ratio:>+8.1%}"
            )
    worst = max((abs(part.error_ratio) for _, parts in rows for part in parts), default=1.0)
    verdict = "met" if worst <= WRONG_RATIO else "MISSED"
    print(f"\nworst part: {worst:.1%}   target: at most {WRONG_RATIO:.0%}   {verdict}")


if __name__ == "__main__":
    sys.exit(main())
