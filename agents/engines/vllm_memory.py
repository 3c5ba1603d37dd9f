"""What vLLM 0.32 says at its start of the memory it takes: bytes by part, read from its log.

Sources: v1/worker/gpu_worker.py and gpu_model_runner.py (CUDA), model_loader/weight_utils.py and
v1/worker/cpu_worker.py (CPU), v1/core/kv_cache_utils.py. The engine prints GiB with two decimals,
so each figure is good to `RESOLUTION_BYTES`. On CPU it prints no more of the weights than the size
of their files, and nothing of activations.
"""

import re
from collections.abc import Mapping

GIB = 1024**3
RESOLUTION_BYTES = GIB // 200
"""Half of the last digit that the engine prints."""

_GIB = r"(?P<gib>[\d.]+) GiB"
_GRAPHS = rf"Graph capturing finished in \d+ secs, took {_GIB}"
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("weights_bytes", re.compile(rf"Model loading took {_GIB} memory")),
    ("checkpoint_bytes", re.compile(rf"Checkpoint size: {_GIB}")),
    ("kv_cache_bytes", re.compile(rf"Available KV cache memory: {_GIB}")),
    ("kv_cache_bytes", re.compile(r"(?:Explicitly|Auto) set \((?P<gib>[\d.]+)/")),
    ("graph_bytes", re.compile(_GRAPHS)),
    ("consumed_bytes", re.compile(rf"Actual usage is {_GIB} for consumed memory")),
    ("activation_bytes", re.compile(rf"{_GIB} for peak activation")),
)


def read_memory(line: str) -> Mapping[str, int]:
    """Return the parts that this log line tells, in bytes; mostly none.

    `consumed_bytes` is the weights and all that the process holds outside of PyTorch.
    """
    if "GiB" not in line:
        return {}
    found = ((part, pattern.search(line)) for part, pattern in _RULES)
    return {part: int(float(match["gib"]) * GIB) for part, match in found if match}
