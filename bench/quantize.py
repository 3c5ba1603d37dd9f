"""Make quantized copies of a model's folder by plain rounding, in the formats of published weights.

Run it with an engine's Python (it has torch and safetensors):
`python bench/quantize.py FOLDER OUT {w8a8,w4a16,gptq,awq}`. Only linear layers are quantized;
scales are a row's or a group's largest value, with no calibration: the worst such a format gives.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

GROUP = 64
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def main() -> None:
    """Write one quantized copy."""
    source, out, method = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    make, config = METHODS[method]
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors |= dict(make(name, weight))
        else:
            tensors[name] = weight
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    written = json.loads((source / "config.json").read_text())
    written |= {"quantization_config": config, "dtype": "bfloat16"}
    (out / "config.json").write_text(json.dumps(written, indent=1))
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, out / "model.safetensors", metadata={"format": "pt"})


def w8a8(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield int8 weights with a scale a row; activations are quantized as they come."""
    scale = weight.float().abs().amax(1, keepdim=True) / 127
    yield name, (weight.float() / scale).round().clamp(-128, 127).to(torch.int8)
    yield f"{name}_scale", scale.to(torch.bfloat16)


def w4a16(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield 4-bit weights in groups, eight a word along the inputs."""
    digits, scales = _four_bits(weight)
    rows, columns = weight.shape
    yield f"{name}_packed", _packed(digits.reshape(rows, columns // 8, 8), range(8))
    yield f"{name}_scale", scales.to(torch.bfloat16)
    yield f"{name}_shape", torch.tensor([rows, columns])


def gptq(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield 4-bit weights as GPTQ stores them: transposed, packed along the inputs."""
    base = name.removesuffix(".weight")
    digits, scales = _four_bits(weight)
    rows, columns = weight.shape
    by_input = digits.t().reshape(columns // 8, 8, rows).transpose(1, 2)
    yield f"{base}.qweight", _packed(by_input, range(8))
    zeros = torch.full((columns // GROUP, rows // 8), 0x77777777, dtype=torch.int32)
    yield f"{base}.qzeros", zeros
    yield f"{base}.scales", scales.t().to(torch.bfloat16)
    yield f"{base}.g_idx", (torch.arange(columns) // GROUP).to(torch.int32)


def awq(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield 4-bit weights as AWQ stores them: packed along the outputs, in its own order."""
    base = name.removesuffix(".weight")
    digits, scales = _four_bits(weight)
    rows, columns = weight.shape
    yield f"{base}.qweight", _packed(digits.t().reshape(columns, rows // 8, 8), AWQ_ORDER)
    zeros = torch.tensor(0x88888888 - 2**32).to(torch.int32)
    yield f"{base}.qzeros", zeros.expand(columns // GROUP, rows // 8).clone()
    yield f"{base}.scales", scales.t().to(torch.bfloat16)


def _four_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return digits 0 to 15, (out, in) int64, and scales, (out, groups) float32."""
    rows, columns = weight.shape
    groups = weight.float().reshape(rows, columns // GROUP, GROUP)
    scales = (groups.abs().amax(2, keepdim=True) / 7).clamp(min=1e-8)
    digits = (groups / scales).round().clamp(-8, 7) + 8
    return digits.to(torch.int64).reshape(rows, columns), scales.squeeze(2)


def _packed(digits: torch.Tensor, order: Any) -> torch.Tensor:
    """Return the last axis of eight digits as one int32, the first digit of `order` lowest."""
    words = torch.zeros(digits.shape[:-1], dtype=torch.int64)
    for place, index in enumerate(order):
        words |= digits[..., index] << (4 * place)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _compressed(
    form: str, weights: dict[str, Any], inputs: dict[str, Any] | None
) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {**group, "output_activations": None}},
    }


_INT = {"type": "int", "symmetric": True}
METHODS = {
    "w8a8": (
        w8a8,
        _compressed(
            "int-quantized",
            {**_INT, "num_bits": 8, "strategy": "channel", "dynamic": False},
            {**_INT, "num_bits": 8, "strategy": "token", "dynamic": True},
        ),
    ),
    "w4a16": (
        w4a16,
        _compressed(
            "pack-quantized",
            {**_INT, "num_bits": 4, "strategy": "group", "group_size": GROUP, "dynamic": False},
            None,
        ),
    ),
    "gptq": (
        gptq,
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": GROUP,
            "desc_act": False,
            "sym": True,
            "lm_head": False,
        },
    ),
    "awq": (
        awq,
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": GROUP,
            "version": "gemm",
            "zero_point": True,
        },
    ),
}


if __name__ == "__main__":
    main()
