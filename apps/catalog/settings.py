"""The engine settings of a variant on a device, with an order's own settings above them.

Decides which settings may be changed, their ranges, and what an error says. One declaration,
`RULES`, feeds the check, the API and the docs. Called by the deployments app, by the fit and by
the reader of catalog files. Pure.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agents.wire import EngineSettings
from apps.catalog.entry import Device, Shape, Variant


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Range and meaning of one engine setting; bounds are inclusive."""

    kind: type
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    multiple_of: dict[Device, int] | None = None

    def accepted(self, device: Device) -> str:
        """Say in words what is accepted on `device`."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a name"
        number = "a whole number" if self.kind is int else "a number"
        step = (self.multiple_of or {}).get(device)
        every = f" that is a multiple of {step}" if step else ""
        return f"{number}{every} from {self.low:g} to {self.high:g}"


MIB = 1024**2
TIB = 1024**4

RULES: dict[str, Rule] = {
    "max_model_len": Rule(
        kind=int, low=1, high=16_777_216, help="Longest request, prompt and answer, in tokens."
    ),
    "max_num_seqs": Rule(
        kind=int, low=1, high=4096, help="Most requests that are computed at the same time."
    ),
    "max_num_batched_tokens": Rule(
        kind=int, low=32, high=1_048_576, help="Most tokens in one step of the engine."
    ),
    "gpu_memory_utilization": Rule(
        kind=float, low=0.05, high=0.98, help="Share of a GPU's memory that the engine takes."
    ),
    "kv_cache_bytes": Rule(
        kind=int, low=MIB, high=TIB, help="Size of the KV cache, for each GPU or for the CPU."
    ),
    "tensor_parallel_size": Rule(
        kind=int, low=1, high=64, help="GPUs that share each layer; must divide the heads."
    ),
    "pipeline_parallel_size": Rule(
        kind=int, low=1, high=64, help="Stages into which the layers are split."
    ),
    "quantization": Rule(
        kind=str,
        choices=(
            "awq",
            "compressed-tensors",
            "fp8",
            "fp8_per_tensor",
            "fp8_per_block",
            "gptq",
            "int8_per_channel_weight_only",
            "modelopt",
            "modelopt_fp4",
            "mxfp4",
            "mxfp8",
        ),
        help="Quantization method; leave it out and the engine reads it from the weights.",
    ),
    "dtype": Rule(
        kind=str,
        choices=("auto", "bfloat16", "float16", "float32"),
        help="Number format of the computation.",
    ),
    "kv_cache_dtype": Rule(
        kind=str,
        # Others are accepted by the engine; on CPU two of them answer garbage.
        choices=("auto", "bfloat16", "float16", "fp8", "fp8_e4m3"),
        help="Number format of the KV cache; fp8 halves it.",
    ),
    "block_size": Rule(
        kind=int,
        low=16,
        high=1024,
        multiple_of={Device.CPU: 32, Device.CUDA: 16},
        help="Tokens in a block of the KV cache, the unit in which prefixes are reused.",
    ),
    "enforce_eager": Rule(
        kind=bool, help="Run without compilation and graphs: faster start, slower answers."
    ),
    "enable_prefix_caching": Rule(
        kind=bool, help="Reuse the KV cache of a prompt's beginning between requests."
    ),
    "tool_call_parser": Rule(kind=str, help="Parser that turns the model's text into tool calls."),
    "reasoning_parser": Rule(kind=str, help="Parser that splits reasoning from the answer."),
    "omp_threads": Rule(kind=int, low=1, high=512, help="Threads of a CPU engine."),
}


class BadSetting(ValueError):
    """An engine setting is unknown or outside its range; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


def engine_settings(
    variant: Variant, device: Device | str, overrides: Mapping[str, object]
) -> EngineSettings:
    """Return the settings of `variant` on `device` with `overrides` above them.

    A None in `overrides` goes back to the engine's own default. Raises BadSetting (a ValueError)
    that names the field and what is accepted.
    """
    device = _device(variant, device)
    merged = {
        **_given(variant.engine),
        **_given(variant.devices[device].engine),
        **{name: _known(name, value) for name, value in overrides.items()},
    }
    for name, value in merged.items():
        _check(name, value, device)
    settings = msgspec.convert({k: v for k, v in merged.items() if v is not None}, EngineSettings)
    _check_against_model(settings, variant)
    return settings


def _device(variant: Variant, device: Device | str) -> Device:
    if device not in variant.devices:
        raise BadSetting(
            "device",
            f"`device`: variant {variant.name} does not run on {device!s}; "
            f"it runs on {', '.join(variant.devices)}",
        )
    return Device(device)


def _given(settings: EngineSettings) -> dict[str, Any]:
    """Return only what differs from the defaults, so that layers can stand above each other."""
    defaults = EngineSettings()
    return {
        name: value
        for name, value in msgspec.structs.asdict(settings).items()
        if value != getattr(defaults, name)
    }


def _known(name: str, value: object) -> object:
    if name in RULES:
        return value
    near = difflib.get_close_matches(name, RULES, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(RULES))}"
    raise BadSetting(name, f"`{name}` is not an engine setting: {hint}")


def _check(name: str, value: object, device: Device) -> None:
    """Raise BadSetting unless `value` is None or what the rule of `name` accepts."""
    rule = RULES[name]
    if value is None:
        return
    if not _has_kind(value, rule.kind) or not _in_range(value, rule, device):
        raise BadSetting(name, f"`{name}` is {value!r}: give {rule.accepted(device)}")


def _has_kind(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _in_range(value: object, rule: Rule, device: Device) -> bool:
    if rule.choices:
        return value in rule.choices
    if not isinstance(value, int | float) or rule.low is None or rule.high is None:
        return value != ""
    step = (rule.multiple_of or {}).get(device, 0)
    return rule.low <= value <= rule.high and (not step or value % step == 0)


def _check_against_model(settings: EngineSettings, variant: Variant) -> None:
    """Raise BadSetting for values that are fine by themselves and wrong for this model."""
    length, context = settings.max_model_len, variant.context_tokens
    if length is not None and length > context:
        raise BadSetting(
            "max_model_len",
            f"`max_model_len` is {length} and the model takes {context} tokens: "
            f"give at most {context}",
        )
    _check_parallel(settings, variant)


def _check_parallel(settings: EngineSettings, variant: Variant) -> None:
    """Raise BadSetting if the model cannot be split into the wanted parts."""
    shape, parts = variant.shape, settings.tensor_parallel_size
    if not splits_evenly(shape, parts):
        most = min(shape.attention_heads, 64)
        fitting = [str(n) for n in range(1, most + 1) if splits_evenly(shape, n)]
        raise BadSetting(
            "tensor_parallel_size",
            f"`tensor_parallel_size` {parts} does not divide the model's {shape.attention_heads} "
            f"attention and {shape.kv_heads} KV heads: give one of {', '.join(fitting)}",
        )
    if settings.pipeline_parallel_size > shape.layers:
        raise BadSetting(
            "pipeline_parallel_size",
            f"`pipeline_parallel_size` {settings.pipeline_parallel_size} is more than the model's "
            f"{shape.layers} layers: give at most {shape.layers}",
        )


def splits_evenly(shape: Shape, parts: int) -> bool:
    """Say whether `parts` GPUs can share each layer: heads are dealt out whole, or KV heads
    are copied whole."""
    kv_heads = shape.kv_heads
    return shape.attention_heads % parts == 0 and (kv_heads % parts == 0 or parts % kv_heads == 0)
