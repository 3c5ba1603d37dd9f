"""How weights lie on the disk, by their config.json, and whether this host's CPU has the kernels.

The engine reads the method from the checkpoint by itself, so an order need not name it: what an
AVX2 host cannot run would end a minute later with an error that names no cause. Called by `vllm`.
"""

import json
from pathlib import Path
from typing import Any

from agents import engine_support


def check(folder: Path, cpu_features: frozenset[str]) -> None:
    """Raise ValueError if a CPU with these features lacks the kernels for the weights there."""
    form = stored_form(folder)
    for setting in ("stored", "quantization"):
        if why := engine_support.cpu_lacks(setting, form, cpu_features):
            raise ValueError(f"weights are stored as {form}: {why}")


def stored_form(folder: Path) -> str:
    """Return the form as `engine_support` names it; empty if unquantized, or not to be read."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config.get("quantization_config") or {}
        method = str(found.get("quant_method", ""))
        if method != "compressed-tensors":
            return method
        groups = found["config_groups"].values()
        bits = {group["weights"]["num_bits"] for group in groups}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    return "w4a16" if 4 in bits else "w8a8"
