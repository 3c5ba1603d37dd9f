"""What a benchmark that starts vLLM by itself needs: its environment, and weights on the disk."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from agents.engines.environment import cache_root, default_root, ensure_environment
from agents.weights.store import Weights
from agents.wire import Progress
from apps.catalog.entry import Variant
from apps.catalog.weights import weights_ref

VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Of the engine's process: one thread, as the catalog has it, and nothing from the network."""


def bring[K](variants: Mapping[K, Variant]) -> tuple[Path, dict[K, Path]]:
    """Return the engine's Python and the folder of each variant's weights; the first time slow."""
    return asyncio.run(_brought(variants))


async def _brought[K](variants: Mapping[K, Variant]) -> tuple[Path, dict[K, Path]]:
    environment = await ensure_environment(default_root(), "cpu", _ignore)
    store = Weights(cache_root() / "weights")
    folders = {key: await store.ensure(weights_ref(one), _ignore) for key, one in variants.items()}
    return environment.python, folders


def _ignore(_progress: Progress) -> None:
    """Say nothing while things are brought."""
