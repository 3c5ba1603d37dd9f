"""What the weights' config.json says of their form, and what an AVX2 host refuses."""

import json
from pathlib import Path

import pytest

from agents.engines import stored_form

NARROW, WIDE = frozenset({"avx2"}), frozenset({"avx2", "avx512f"})


def laid_out(folder: Path, quantization: object) -> Path:
    (folder / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    return folder


def compressed(bits: int) -> dict[str, object]:
    groups = {"group_0": {"weights": {"num_bits": bits, "type": "int"}}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


@pytest.mark.parametrize(
    ("quantization", "form"),
    [
        (None, ""),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        (compressed(8), "w8a8"),
        (compressed(4), "w4a16"),
        ({"quant_method": "compressed-tensors"}, ""),
        ([], ""),
    ],
    ids=["none", "awq", "8 bits", "4 bits", "no groups", "no mapping"],
)
def test_the_form_is_read_from_config_json(tmp_path, quantization, form):
    assert stored_form.stored_form(laid_out(tmp_path, quantization)) == form


def test_a_folder_without_config_has_no_form(tmp_path):
    assert stored_form.stored_form(tmp_path) == ""


@pytest.mark.parametrize("quantization", [compressed(4), {"quant_method": "gptq", "bits": 4}])
def test_four_bits_are_refused_where_the_cpu_lacks_wide_vectors(tmp_path, quantization):
    folder = laid_out(tmp_path, quantization)

    with pytest.raises(ValueError, match=r"weights are stored as .*avx512f"):
        stored_form.check(folder, NARROW)
    stored_form.check(folder, WIDE)


def test_eight_bits_are_not(tmp_path):
    stored_form.check(laid_out(tmp_path, compressed(8)), NARROW)
