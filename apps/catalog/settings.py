"""The engine settings of a variant on a device, with an order's own settings above them.

What can be set, its ranges and sentences are declared once, in `agents.engine_settings`; what a
device can run in `agents.engine_support`. This module checks orders against both and against the
model. For others: `SETTINGS`, `engine_settings`, `checked_alone`, `accepted`, `choices_on`,
`unavailable`, `gpu_refusal`, `splits_evenly`, `BadSetting`. Pure.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from agents import engine_flags, engine_support
from agents.engine_settings import SETTINGS as SETTINGS
from agents.setting import Setting, plain
from agents.wire import EngineSettings
from apps.catalog.entry import SOURCE_FORMS, Device, Quantization, Shape, Variant

METHODS = {
    Quantization.FP8: "fp8",
    Quantization.AWQ: "awq",
    Quantization.GPTQ: "gptq",
    Quantization.W8A8: "compressed-tensors",
    Quantization.W4A16: "compressed-tensors",
    Quantization.MXFP4: "mxfp4",
    Quantization.NVFP4: "modelopt_fp4",
}
"""How weights are stored -> the engine's method for it."""
ADAPTER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_SUPPORTED = ("quantization", "kv_cache_dtype")


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
        checked_alone(name, value, device)
    settings = msgspec.convert({k: v for k, v in merged.items() if v is not None}, EngineSettings)
    _check_against_model(settings, variant, device)
    return settings


def checked_alone(name: str, value: object, device: Device | str) -> None:
    """Raise BadSetting unless `value` is None or what setting `name` takes on `device`."""
    setting = SETTINGS[name]
    if value is None or value == setting.initial:
        return
    if why := setting.refused_on.get(device):
        raise BadSetting(name, f"`{name}` cannot be set on {device}: {why} Leave it out.")
    if not _has_kind(value, setting) or not _in_range(value, setting, device):
        raise BadSetting(name, f"`{name}` is {value!r}: give {accepted(setting, device)}")
    if name in _SUPPORTED and (why := engine_support.why_not(name, str(value), device)):
        able = ", ".join(choices_on(setting, device))
        raise BadSetting(name, f"`{name}` is {value!r}: {why} Give one of {able}")
    if name == "extra_args":
        _check_arguments(value)
    if name in ("lora_adapters", "speculative_model"):
        _check_sources(name, value)


def accepted(setting: Setting, device: Device | str) -> str:
    """Say in words what `setting` takes on `device`."""
    if setting.choices:
        return "one of " + ", ".join(choices_on(setting, device))
    if setting.kind is bool:
        return "true or false"
    if setting.kind is dict:
        return "names with their sources"
    if setting.kind is str:
        return "a name"
    if setting.low is None or setting.high is None:
        return "a list of words"
    number = {int: "a whole number", tuple: "whole numbers"}.get(setting.kind, "a number")
    step = setting.step(device)
    every = f" that is a multiple of {step}" if step else ""
    return f"{number}{every} from {plain(setting.low)} to {plain(setting.high)}"


def choices_on(setting: Setting, device: Device | str, capability: str = "") -> tuple[str, ...]:
    """Return the choices of `setting` that `device` can run."""
    return tuple(
        choice for choice in setting.choices if not unavailable(setting, choice, device, capability)
    )


def unavailable(setting: Setting, choice: str, device: Device | str, capability: str = "") -> str:
    """Return why `device` cannot have `choice` of `setting`, empty if it can."""
    if why := setting.refused_on.get(device):
        return why
    return engine_support.why_not(setting.name, choice, device, capability)


def cpu_refusal(variant: Variant, settings: EngineSettings, features: frozenset[str] | None) -> str:
    """Return why a CPU with `features` cannot run `variant` with `settings`, empty if it can.

    `features` None, unknown, judges nothing.
    """
    given = {
        "quantization": settings.quantization or METHODS.get(variant.quantization, ""),
        "kv_cache_dtype": settings.kv_cache_dtype or "auto",
        "stored": variant.quantization.value,
    }
    if features is None:
        return ""
    for name, method in given.items():
        if why := engine_support.cpu_lacks(name, method, features):
            return f"`{name}` {method}: {why}"
    return ""


def gpu_refusal(variant: Variant, settings: EngineSettings, capability: str) -> str:
    """Return why a GPU of `capability` cannot run `variant` with `settings`, empty if it can.

    Names the setting and what to do.
    """
    method = settings.quantization or METHODS.get(variant.quantization, "")
    if why := engine_support.why_not("quantization", method, Device.CUDA, capability):
        able = ", ".join(engine_support.methods_for("quantization", Device.CUDA, capability))
        return f"`quantization` {method}: {why} Take another variant or one of {able}"
    kind = settings.kv_cache_dtype or "auto"
    if why := engine_support.why_not("kv_cache_dtype", kind, Device.CUDA, capability):
        able = ", ".join(engine_support.methods_for("kv_cache_dtype", Device.CUDA, capability))
        return f"`kv_cache_dtype` {kind}: {why} Give one of {able}"
    return ""


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
    if name in SETTINGS:
        return tuple(value) if isinstance(value, list) else value
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(SETTINGS))}"
    raise BadSetting(name, f"`{name}` is not an engine setting: {hint}")


def _has_kind(value: object, setting: Setting) -> bool:
    if isinstance(value, bool):
        return setting.kind is bool
    if setting.kind is tuple:
        item = int if setting.low is not None else str
        return isinstance(value, tuple) and all(type(part) is item for part in value)
    if setting.kind is dict:
        return isinstance(value, dict) and all(
            isinstance(part, str) for pair in value.items() for part in pair
        )
    return isinstance(value, (int, float) if setting.kind is float else setting.kind)


def _in_range(value: object, setting: Setting, device: Device | str) -> bool:
    if setting.choices:
        return value in setting.choices
    if isinstance(value, tuple):
        return all(_in_range(part, setting, device) for part in value)
    if not isinstance(value, int | float) or setting.low is None or setting.high is None:
        return value != ""
    step = setting.step(device)
    return setting.low <= value <= setting.high and (not step or value % step == 0)


def _check_arguments(value: object) -> None:
    try:
        engine_flags.checked(value if isinstance(value, tuple) else ())
    except engine_flags.BadArgument as error:
        raise BadSetting("extra_args", f"`extra_args`: {error}") from error


def _check_sources(name: str, value: object) -> None:
    sources = value if isinstance(value, dict) else {"": value}
    for adapter, source in sources.items():
        if adapter and not ADAPTER_NAME.fullmatch(adapter):
            raise BadSetting(
                name,
                f"`{name}`: {adapter!r} is no name: use a-z, 0-9, `.`, `_` and `-`, at most 40",
            )
        if not SOURCE_FORMS.fullmatch(str(source)) or str(source).startswith("wheel:"):
            raise BadSetting(
                name, f"`{name}`: {source!r}: write `hf:<org>/<name>@<revision>` or `path:/folder`"
            )


def _check_against_model(settings: EngineSettings, variant: Variant, device: Device) -> None:
    """Raise BadSetting for values that are fine by themselves and wrong for this model."""
    length, context = settings.max_model_len, variant.context_tokens
    if length is not None and length > context:
        raise BadSetting(
            "max_model_len",
            f"`max_model_len` is {length} and the model takes {context} tokens: "
            f"give at most {context}",
        )
    _check_parallel(settings, variant)
    _check_speculation(settings)
    _check_stored(settings, variant, device)


def _check_stored(settings: EngineSettings, variant: Variant, device: Device) -> None:
    """Raise BadSetting if the wanted method contradicts how the weights are stored."""
    wanted = settings.quantization
    row = engine_support.support("quantization", wanted or "")
    if wanted is None or row is None:
        return
    stored = METHODS.get(variant.quantization, "")
    if row.stored and stored and stored != wanted:
        raise BadSetting(
            "quantization",
            f"`quantization` is {wanted!r} and the weights of {variant.name} are stored as "
            f"{stored}: leave it out",
        )
    if not row.stored and stored and stored != wanted:
        raise BadSetting(
            "quantization",
            f"`quantization` {wanted!r} converts unquantized weights, and those of "
            f"{variant.name} are {stored} already: leave it out, or take another variant",
        )


def _check_speculation(settings: EngineSettings) -> None:
    method, model = settings.speculative_method, settings.speculative_model
    if method in ("draft_model", "eagle", "eagle3") and model is None:
        raise BadSetting(
            "speculative_model",
            f"`speculative_method` {method} guesses with a second model: "
            "give its weights as `speculative_model`",
        )
    if method is None and (model is not None or settings.speculative_tokens is not None):
        field = "speculative_model" if model is not None else "speculative_tokens"
        raise BadSetting(field, f"`{field}` means nothing without `speculative_method`: give one")
    if model is not None and method in ("ngram", "suffix", "mtp"):
        raise BadSetting(
            "speculative_model", f"`speculative_method` {method} has no draft model: leave it out"
        )


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
