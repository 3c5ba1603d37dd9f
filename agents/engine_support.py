"""What a device can do: one row for each quantization method and each KV-cache type, with evidence.

The control plane gives the reasons to people before an order, the agent refuses what slipped
through. `runs` was seen to answer rightly, `fails` ends with an error, `garbage` is accepted by the
engine and answers nonsense, `untried` is not offered because nobody has seen it run. CPU verdicts
were measured with SmolLM2 on vLLM 0.32 (copies by `bench/quantize.py`); GPU generations are the
engine's own `get_min_capability` and backends, read in its code and not run here. Pure.
"""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    RUNS = "runs"
    SLOW = "slow"  # answers rightly, several times slower
    FAILS = "fails"
    GARBAGE = "garbage"
    UNTRIED = "untried"


OFFERED = frozenset({Verdict.RUNS, Verdict.SLOW})


@dataclass(frozen=True, kw_only=True)
class Support:
    """One method on every device."""

    setting: str
    """`quantization`, `kv_cache_dtype`, or `stored`: how the weights lie on the disk."""
    method: str
    cpu: Verdict
    cpu_evidence: str
    """What was seen, one sentence."""
    min_capability: str | None
    """Oldest GPU generation, such as `8.9`; None if no GPU runs it."""
    gpu_evidence: str
    cpu_needs: tuple[str, ...] = ()
    """CPU features of which one must be there, as /proc/cpuinfo spells them."""
    stored: bool = False
    """True if the weights must have been stored so; False where the engine converts them."""


_QUANT = "quantization"
_STORED = "stored"
_KV = "kv_cache_dtype"
_PLUGIN = "It left vLLM's own tree before 0.32 and needs a plugin that Hearth does not install."
_MIN = "get_min_capability of vLLM 0.32."
_NO_KERNEL = "vLLM 0.32 has no CPU kernel for it."
_NO_FP8 = "The CPU engine lacks the kernel: `_C::static_scaled_fp8_quant()` is missing."


def _quant(
    method: str, cpu: Verdict, seen: str, capability: str | None, *, stored: bool = False,
    gpu: str = _MIN,
) -> Support:  # fmt: skip
    return Support(
        setting=_QUANT, method=method, cpu=cpu, cpu_evidence=seen, min_capability=capability,
        gpu_evidence=gpu, stored=stored,
    )  # fmt: skip


def _four_bits(setting: str, method: str, cpu: Verdict, seen: str, capability: str) -> Support:
    return Support(
        setting=setting, method=method, cpu=cpu, min_capability=capability, gpu_evidence=_MIN,
        cpu_evidence=f"{seen} vLLM's AVX2 build lacks the kernel (`cpu_gemm_wna16`).",
        cpu_needs=_WIDE, stored=True,
    )  # fmt: skip


def _kv(
    method: str,
    cpu: Verdict,
    seen: str,
    capability: str | None,
    gpu: str,
    needs: tuple[str, ...] = (),
) -> Support:
    return Support(
        setting=_KV, method=method, cpu=cpu, cpu_evidence=seen, min_capability=capability,
        gpu_evidence=gpu, cpu_needs=needs,
    )  # fmt: skip


_WIDE = ("avx512f", "amx_tile")
CPU_FEATURES = frozenset(_WIDE)
"""What of /proc/cpuinfo decides here: an inventory tells these, where its CPU has them."""
_RIGHT = "Answers as the unquantized model does."
_EXPERTS_ALONE = (
    "Answers as the unquantized model does: it converts the experts of a mixture alone, a dense "
    "model stays as it was (config/quantization.py)."
)
_SLOW_4BIT = "Answers rightly, 3 to 4 times slower than bf16."
_FLASH = "FlashInfer of vLLM 0.32 starts at 8.0."
_TRITON_FP8 = "Triton's e4m3 starts at 8.9."
_TRITON_8 = "Triton kernels of vLLM 0.32; not run here."
_TURBO = "TURBOQUANT backend of vLLM 0.32; not run here."

TABLE: tuple[Support, ...] = (
    _quant("compressed-tensors", Verdict.RUNS, "W8A8 as fast as bf16, W4A16 nearly.", "7.0",
           stored=True),
    _four_bits(_STORED, "w4a16", Verdict.RUNS, "Answers rightly, nearly as fast as bf16.", "7.0"),
    _four_bits(_QUANT, "awq", Verdict.SLOW, _SLOW_4BIT, "7.5"),
    _four_bits(_QUANT, "gptq", Verdict.SLOW, _SLOW_4BIT, "6.0"),
    _quant("int8_per_channel_weight_only", Verdict.RUNS, _EXPERTS_ALONE, "7.5"),
    _quant("fp8", Verdict.FAILS, _NO_FP8, "7.5"),
    _quant("fp8_per_tensor", Verdict.FAILS, _NO_FP8, "7.5"),
    _quant("fp8_per_block", Verdict.UNTRIED, _NO_KERNEL, "7.5"),
    _quant("fp8_per_channel", Verdict.UNTRIED, _NO_KERNEL, "7.5"),
    _quant("mxfp8", Verdict.FAILS, "The start ends with `no kernel`.", "8.0"),
    _quant("mxfp4", Verdict.UNTRIED, _NO_KERNEL, "8.0"),
    _quant("nvfp4_per_token", Verdict.UNTRIED, _NO_KERNEL, "7.5"),
    _quant("modelopt", Verdict.UNTRIED, _NO_KERNEL, "8.0", stored=True),
    _quant("modelopt_fp4", Verdict.UNTRIED, _NO_KERNEL, "7.5", stored=True),
    _quant("moe_wna16", Verdict.UNTRIED, "It wants a checkpoint of its own kind.", "7.0",
           stored=True),
    _quant("torchao", Verdict.UNTRIED, "It wants a checkpoint of its own kind.", "7.5",
           stored=True),
    _quant("bitsandbytes", Verdict.FAILS, _PLUGIN, None, gpu=_PLUGIN),
    _quant("gguf", Verdict.FAILS, _PLUGIN + " A GGUF source is turned into bf16 at its fetch.",
           None, gpu=_PLUGIN),
    _kv("auto", Verdict.RUNS, _RIGHT, "0.0", "The model's own format."),
    _kv("bfloat16", Verdict.RUNS, _RIGHT, "8.0", "bfloat16 starts at 8.0."),
    _kv("float16", Verdict.RUNS, _RIGHT, "0.0", "Every GPU has float16."),
    _kv("fp8", Verdict.RUNS, _RIGHT, "8.0", _FLASH, _WIDE),
    _kv("fp8_e4m3", Verdict.RUNS, _RIGHT, "8.0", _FLASH, _WIDE),
    _kv("fp8_e5m2", Verdict.SLOW, "Answers rightly, 6 times slower.", "8.0", _FLASH, _WIDE),
    _kv("fp8_per_token_head", Verdict.UNTRIED, "Not a type of the CPU attention kernels.", "8.9",
        _TRITON_FP8),
    _kv("int8_per_token_head", Verdict.GARBAGE, "Accepted, and the answers are nonsense.", "8.0",
        _TRITON_8, _WIDE),
    _kv("int4_per_token_head", Verdict.UNTRIED, "Not a type of the CPU attention kernels.", "8.0",
        _TRITON_8),
    _kv("nvfp4", Verdict.UNTRIED, "Not a type of the CPU attention kernels.", "10.0",
        "NVFP4 starts with Blackwell."),
    _kv("turboquant_4bit_nc", Verdict.GARBAGE,
        "Accepted; perplexity 19,397 in place of 8.7 on the same text.", "8.0",
        _TURBO),
    _kv("turboquant_k8v4", Verdict.UNTRIED, "Not a type of the CPU attention kernels.", "8.0",
        _TURBO),
    _kv("turboquant_k3v4_nc", Verdict.UNTRIED, "Not a type of the CPU attention kernels.", "8.0",
        _TURBO),
    _kv("turboquant_3bit_nc", Verdict.UNTRIED, "Not a type of the CPU attention kernels.", "8.0",
        _TURBO),
)  # fmt: skip

_ROWS = {(row.setting, row.method): row for row in TABLE}


def methods(setting: str) -> tuple[str, ...]:
    """Return every method of `setting` that the table speaks of."""
    return tuple(row.method for row in TABLE if row.setting == setting)


def support(setting: str, method: str) -> Support | None:
    """Return the row of `method`, None if the setting is none that the table speaks of."""
    return _ROWS.get((setting, method))


def why_not(setting: str, method: str, device: str, capability: str = "") -> str:
    """Return why `device` cannot run `method`, empty if it can or the table does not know it.

    `capability` is the GPU's compute capability; empty judges GPUs in general.
    """
    row = support(setting, method)
    if row is None:
        return ""
    if device == "cpu":
        return (
            "" if row.cpu in OFFERED else f"{_WORDS[row.cpu]} on a CPU engine: {row.cpu_evidence}"
        )
    if row.min_capability is None:
        return f"no GPU runs it: {row.gpu_evidence}"
    if capability and _number(capability) < _number(row.min_capability):
        return (
            f"it needs a GPU of compute capability {row.min_capability} or later and this one "
            f"has {capability}: {row.gpu_evidence}"
        )
    return ""


def cpu_lacks(setting: str, method: str, features: frozenset[str]) -> str:
    """Return what a CPU with `features` lacks for `method`, empty if nothing."""
    row = support(setting, method)
    if row is None or not row.cpu_needs or features & set(row.cpu_needs):
        return ""
    return f"this host's CPU has none of {', '.join(row.cpu_needs)}, and its kernels need one"


def fast_cpu_dtype(features: frozenset[str]) -> str | None:
    """Return the `dtype` that a CPU with `features` computes fastest, None for the model's own.

    vLLM takes bfloat16 on every CPU. Without wide vectors PyTorch emulates its products number by
    number: embedding and prefill take several times as long as in float32, which costs twice the
    memory and, where memory is the limit, a slower decode (`python -m bench.dtype`, docs/catalog).
    """
    return None if features & set(_WIDE) else "float32"


def methods_for(setting: str, device: str, capability: str = "") -> tuple[str, ...]:
    """Return the methods that `device` can run, in the table's order."""
    return tuple(
        row.method
        for row in TABLE
        if row.setting == setting and not why_not(setting, row.method, device, capability)
    )


_WORDS = {
    Verdict.FAILS: "it fails",
    Verdict.GARBAGE: "it answers garbage",
    Verdict.UNTRIED: "nobody has seen it run",
}


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
