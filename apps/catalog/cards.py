"""A catalog card for a model that is not in the catalog, from what its files say. Pure.

Takes the config.json and what the safetensors tell of the weights, never code; the rest of a card
(name, task, where it runs) follows from them, or from what the caller says instead. Called by
`apps.catalog.actions`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agents.wire import EngineSettings, Task
from apps.catalog.config_shapes import (
    BadConfig,
    element_bytes,
    experts,
    is_encoder,
    shape_of,
    text_config,
)
from apps.catalog.entry import (
    Device,
    DeviceRules,
    Entry,
    Licence,
    Parameters,
    Quantization,
    Source,
    Variant,
)

DEFAULT_CONTEXT_TOKENS = 32_768
"""`max_model_len` of a card, where the model takes more."""
CPU_WEIGHT_BYTES = 20 * 10**9
"""Larger models are of no use on a CPU."""
MIN_VLLM = "0.10.0"
NOT_STATED = Licence(name="Not stated", url="https://choosealicense.com/no-permission/")

_METHODS = {
    "fp8": Quantization.FP8,
    "awq": Quantization.AWQ,
    "gptq": Quantization.GPTQ,
    "mxfp4": Quantization.MXFP4,
}
_OLDEST_GPU = {
    Quantization.FP8: "8.9",
    Quantization.AWQ: "7.5",
    Quantization.GPTQ: "7.5",
    Quantization.NVFP4: "10.0",
}
_ON_CPU = frozenset(
    {Quantization.NONE, Quantization.W8A8, Quantization.W4A16, Quantization.AWQ, Quantization.GPTQ}
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the safetensors tell, without reading a weight."""

    bytes: int
    parameters: int | None = None
    """None where only the index was read."""
    has_head: bool | None = None
    """Whether there is an output head of its own; None if it is not known."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Where the model is, and what the caller says of it instead of leaving it to the files."""

    source: str
    """`hf:<org>/<name>@<commit>` or `path:/folder`."""
    slug: str = ""
    name: str = ""
    task: Task | None = None
    licence: Licence = NOT_STATED
    gated: bool = False


def card(wish: Wish, config: Mapping[str, Any], weights: Weights) -> Entry:
    """Return the card. Raises BadConfig naming what the files lack or the engine cannot serve."""
    shape = shape_of(config, has_head=weights.has_head)
    quantization = quantization_of(config)
    name = wish.name or title(wish.source)
    context = _context_tokens(config)
    task = wish.task or task_of(config)
    variant = Variant(
        name="own" if quantization is Quantization.NONE else str(quantization),
        quantization=quantization,
        sources=(Source(source=wish.source),),
        weight_bytes=weights.bytes,
        devices=_devices(quantization, weights.bytes),
        context_tokens=context,
        min_vllm=MIN_VLLM,
        shape=shape,
        engine=EngineSettings(
            max_model_len=min(context, DEFAULT_CONTEXT_TOKENS),
            enable_prefix_caching=not is_encoder(config),
        ),
    )
    total = weights.parameters or weights.bytes // element_bytes(text_config(config))
    return Entry(
        slug=wish.slug or slug_of(name),
        name=name,
        maker=_maker(wish.source),
        family=str(text_config(config).get("model_type") or "unknown"),
        summary=f"Added from {wish.source}.",
        task=task,
        licence=wish.licence,
        parameters=Parameters(total=total, active=_active(total, config)),
        context_tokens=context,
        embedding_dim=shape.hidden_size if task is Task.EMBED else None,
        min_vllm=MIN_VLLM,
        gated=wish.gated,
        variants=(variant,),
        recommended=(variant.name,),
    )


def as_file(entry: Entry) -> dict[str, Any]:
    """Return `entry` as the plain values of a catalog file, without what is not set."""
    plain = _set_only(msgspec.to_builtins(entry))
    assert isinstance(plain, dict)
    return plain


def _set_only(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {k: _set_only(v) for k, v in value.items() if v is not None and v != [] and v != ()}
    return [_set_only(item) for item in value] if isinstance(value, list | tuple) else value


def title(source: str) -> str:
    """Return the last part of a source, which people call the model by."""
    return source.partition(":")[2].partition("@")[0].rstrip("/").rpartition("/")[2]


def slug_of(name: str) -> str:
    """Return a slug made of `name`."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:63].strip("-.") or "model"


def task_of(config: Mapping[str, Any]) -> Task:
    """Return what the architecture is for."""
    named = " ".join(map(str, config.get("architectures") or ()))
    if "SequenceClassification" in named:
        return Task.RERANK
    if is_encoder(config) or ("ForCausalLM" not in named and "Generation" not in named):
        return Task.EMBED
    return Task.CHAT


def quantization_of(config: Mapping[str, Any]) -> Quantization:
    """Return how the weights are stored. Raises BadConfig for a method without a kernel."""
    found = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not isinstance(found, Mapping):
        return Quantization.NONE
    method = str(found.get("quant_method", "")).lower()
    if method in _METHODS:
        return _METHODS[method]
    if method == "compressed-tensors":
        return _compressed(found)
    if method == "modelopt":
        return Quantization.NVFP4 if "FP4" in str(found.get("quant_algo")) else Quantization.FP8
    raise BadConfig(
        "quantization_config",
        f"its weights are quantized by `{method}`, which the engine does not serve: "
        f"take a model with one of {', '.join([*_METHODS, 'compressed-tensors', 'modelopt'])}",
    )


def _compressed(found: Mapping[str, Any]) -> Quantization:
    groups = found.get("config_groups") or {}
    first: Any = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = (first or {}).get("weights") or {}
    if weights.get("type") == "float":
        return Quantization.NVFP4 if weights.get("num_bits") == 4 else Quantization.FP8
    return Quantization.W4A16 if weights.get("num_bits") == 4 else Quantization.W8A8


def _devices(quantization: Quantization, weight_bytes: int) -> dict[Device, DeviceRules]:
    oldest = _OLDEST_GPU.get(quantization, "8.0")
    devices = {Device.CUDA: DeviceRules(min_compute_capability=oldest)}
    if quantization in _ON_CPU and weight_bytes <= CPU_WEIGHT_BYTES:
        eager = EngineSettings(enforce_eager=True, max_num_seqs=16)
        devices[Device.CPU] = DeviceRules(engine=eager)
    return devices


def _context_tokens(config: Mapping[str, Any]) -> int:
    text = text_config(config)
    for key in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        value = text.get(key)
        if isinstance(value, int) and value > 0:
            return value
    raise BadConfig("max_position_embeddings", "its config.json does not say how long requests are")


def _active(total: int, config: Mapping[str, Any]) -> int:
    """Return the parameters that one token uses: all but the experts that it does not go to."""
    count, used = experts(config)
    if not count:
        return total
    text = text_config(config)
    width = int(text.get("moe_intermediate_size") or text.get("intermediate_size") or 0)
    layers, hidden = int(text["num_hidden_layers"]), int(text["hidden_size"])
    idle = layers * (count - used) * 3 * hidden * width
    return max(1, total - idle) if idle < total else total


def _maker(source: str) -> str:
    kind, _, rest = source.partition(":")
    return rest.partition("/")[0] if kind == "hf" else "Own files"
