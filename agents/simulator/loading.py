"""The load phase: log lines as an engine prints them while it starts, and how long each stage is.

The shares of the stages follow vLLM on a small model with a warm cache. Lines carry vLLM's own
wording, so the same reader understands both. Called by `server` before it listens.
"""

import asyncio
import logging
from dataclasses import dataclass

from agents.simulator.options import Options

log = logging.getLogger("hearth-simulator")


@dataclass(frozen=True)
class Stage:
    name: str
    share: float
    """Of `load_seconds`."""
    done: str
    """Log line at its end; `{seconds}` is how long it took."""


STAGES = (
    Stage("import", 0.25, "Starting to load model {model}..."),
    Stage("load", 0.45, "Loading weights took {seconds:.2f} seconds"),
    Stage("compile", 0.15, "torch.compile takes {seconds:.2f} s in total"),
    Stage("graphs", 0.10, "Graph capturing finished in {seconds:.2f} secs, took 0.00 GiB"),
    Stage("warm-up", 0.05, "init engine (profile, create kv cache, warmup model) took "
          "{seconds:.2f} seconds"),
)  # fmt: skip


async def load(options: Options) -> None:
    """Wait through all stages and log them."""
    log.info("Simulated engine, no model is computed: version 0.32.0+hearth-simulator")
    for stage in STAGES:
        seconds = stage.share * options.load_seconds
        await asyncio.sleep(seconds)
        log.info(stage.done.format(seconds=seconds, model=options.model))
    limits = options.limits
    kv_cache_tokens = limits.device_blocks * limits.block_tokens
    log.info("GPU KV cache size: %s tokens", f"{kv_cache_tokens:,}")
