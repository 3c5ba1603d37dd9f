"""`make bench-fit`: the estimate against the real engine, weights and KV cache each by itself.

    python -m bench.fit [--model smollm2-135m-instruct|all-minilm-l6-v2]

Starts vLLM on CPU with SmolLM2 at three context lengths and two KV types (bfloat16, and float32 as
the type of the whole computation; fp8 needs AVX-512), and with MiniLM at three context lengths, and
reads the engine's own log with the agent's reader. Weights are what the log says of the checkpoint
(two decimals of a GiB; left out where they are widened as they are loaded, of which the log says
nothing), the KV cache its capacity in tokens. An engine that does not start is named, and the
others are compared. The exit code is 1 when a part is more than 10 % off or an engine did not
start. Takes two minutes, the first time five: it installs the engine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.engines.vllm import VllmEngine
from agents.wire import EngineSettings
from apps.catalog import need as needs
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device, Variant
from apps.catalog.learned import WRONG_RATIO, Comparison, compare
from apps.catalog.reading import read_entry
from apps.catalog.settings import engine_settings
from bench import engine_files

SMOLLM2, MINILM = "smollm2-135m-instruct", "all-minilm-l6-v2"
KV_BYTES = 512 * 1024**2
"""Holds one request of 8,192 tokens in each type."""
CASES: tuple[tuple[str, int, str | None], ...] = (
    *((SMOLLM2, length, kind) for kind in ("bfloat16", "float32") for length in (1024, 2048, 8192)),
    *((MINILM, length, None) for length in (64, 128, 256)),
)
START_SECONDS = 440.0


@dataclass(frozen=True, eq=False)
class Case:
    """One model with one context length and one KV type."""

    slug: str
    variant: Variant
    settings: EngineSettings

    def predicted(self) -> dict[str, int]:
        """Return what the fit says, with nothing learned."""
        need = needs.estimate(self.variant, self.settings, Device.CPU)
        tokens = needs.kv_tokens(self.variant, self.settings, Device.CPU, need.kv_bytes)
        if self.settings.dtype == "float32":
            return {"kv_tokens": tokens}
        return {"weights_bytes": need.weights_bytes, "kv_tokens": tokens}

    def arguments(self, folder: Path) -> dict[str, object]:
        """Return the arguments of `vllm.LLM` that the agent's flags stand for."""
        given = {
            "max_model_len": self.settings.max_model_len,
            "max_num_seqs": self.settings.max_num_seqs,
            "block_size": self.settings.block_size,
            "dtype": self.settings.dtype,
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
    worst, compared = 0.0, 0
    _print_head()
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as scratch:
        for case, log in _start(cases, Path(scratch)):
            parts = compare(case.predicted(), _told(log))
            _print(case, parts)
            compared += 1
            worst = max(worst, *(abs(part.error_ratio) for part in parts))
    met = worst <= WRONG_RATIO and compared == len(cases)
    print(
        f"\n{compared} of {len(cases)} configurations, worst part: {worst:.1%}   "
        f"target: all, at most {WRONG_RATIO:.0%}   {'met' if met else 'MISSED'}"
    )
    return int(not met)


def _case(slug: str, length: int, dtype: str | None) -> Case:
    variant = read_entry(BUILT_IN / f"{slug}.yaml").ranked_variants[0]
    overrides: dict[str, object] = {"max_model_len": length}
    if dtype:
        overrides |= {"dtype": dtype, "kv_cache_bytes": KV_BYTES}
    return Case(slug, variant, engine_settings(variant, Device.CPU, overrides))


def _start(cases: list[Case], scratch: Path) -> Iterator[tuple[Case, str]]:
    """Start every case; yield what each engine that came up printed, as soon as it did."""
    python, folders = engine_files.bring({case.slug: case.variant for case in cases})
    configs = [case.arguments(folders[case.slug]) for case in cases]
    (scratch / "configs.json").write_text(json.dumps(configs))
    variables = {**engine_files.VARIABLES, "VLLM_CACHE_ROOT": str(scratch / "cache")}
    script = Path(__file__).with_name("starts.py")
    process = subprocess.Popen(
        [python, script, scratch / "configs.json", scratch],
        env={**os.environ, **variables},
        cwd=scratch,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    started = set()
    try:
        for line in process.stdout or ():
            started.add(int(line))
            yield cases[int(line)], (scratch / f"{int(line)}.log").read_text()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    for number in set(range(len(cases))) - started:
        log = scratch / f"{number}.log"
        said = log.read_text()[-1500:] if log.exists() else "its turn never came"
        print(f"did not start: {cases[number].slug} {cases[number].settings}\n{said}")


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


def _print_head() -> None:
    print(f"{'model':<24}{'context':>8}  {'type':<9}{'part':<15}{'estimate':>14}{'engine':>14}")


def _print(case: Case, parts: tuple[Comparison, ...]) -> None:
    for part in parts:
        print(
            f"{case.slug:<24}{case.settings.max_model_len:>8}  "
            f"{case.settings.dtype or 'stored':<9}{part.part:<15}"
            f"{part.predicted:>14,}{part.measured:>14,}{part.error_ratio:>+8.1%}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
