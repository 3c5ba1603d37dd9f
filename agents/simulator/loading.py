"""The load phase: log lines as vLLM prints them while it starts, and how long each stage is.

The shares of the stages follow vLLM on a small model with a warm cache. A line says what ended
or begins, in vLLM's wording; `agents.engines.simulator` reads the same table. Called by `server`
before it listens.
"""

import asyncio
import logging
from dataclasses import dataclass

from agents.simulator.options import Options

log = logging.getLogger("hearth-simulator")


@dataclass(frozen=True)
class Stage:
    """One stage of a start."""

    name: str
    share: float
    """Of `load_seconds`."""
    begins: str
    """Log line at its start; "" for none."""
    ends: str
    """Log line at its end; `{seconds}` is how long it took."""


STAGES = (
    Stage("import", 0.25, "Simulated engine, no model is computed.", ""),
    Stage(
        "load", 0.45, "Starting to load model {model}...", "Loading weights took {seconds} seconds"
    ),
    Stage("compile", 0.15, "", "torch.compile took {seconds} s in total"),
    Stage("graphs", 0.10, "", "Graph capturing finished in {seconds} secs"),
    Stage(
        "warm-up",
        0.05,
        "GPU KV cache size: {kv_cache_tokens} tokens",
        "init engine (simulated) took {seconds} seconds",
    ),
)


async def load(options: Options) -> None:
    """Wait through all stages and log them."""
    limits = options.limits
    known = {
        "model": options.model,
        "kv_cache_tokens": f"{limits.device_blocks * limits.block_tokens:,}",
    }
    for stage in STAGES:
        seconds = stage.share * options.load_seconds
        if stage.begins:
            log.info(stage.begins.format(**known))
        await asyncio.sleep(seconds)
        if stage.ends:
            log.info(stage.ends.format(seconds=f"{seconds:.2f}", **known))
