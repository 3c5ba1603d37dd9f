"""The estimate against engines that were measured (vLLM 0.32 on CPU, proportional set size)."""

import msgspec
import pytest

from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device
from apps.catalog.need import estimate, kv_tokens
from apps.catalog.reading import read_entry
from apps.catalog.settings import engine_settings

GB = 10**9
MIB = 1024**2


def variant(slug, name=None):
    entry = read_entry(BUILT_IN / f"{slug}.yaml")
    return entry.variant(name) if name else entry.ranked_variants[0]


def need(of, device=Device.CPU, **overrides):
    return estimate(of, engine_settings(of, device, overrides), device)


class TestEstimateOnCpu:
    @pytest.mark.parametrize(
        ("settings", "measured_bytes"),
        [
            ({}, 2.234 * GB),
            ({"max_model_len": 8192, "max_num_seqs": None}, 2.2 * GB),
            (
                {"max_model_len": 8192, "max_num_seqs": None, "kv_cache_bytes": 1024 * MIB},
                3.10 * GB,
            ),
        ],
        ids=["as in the catalog", "engine defaults", "1 GiB of KV cache"],
    )
    def test_smollm2_is_within_10_percent_of_the_measured_engine(self, settings, measured_bytes):
        estimated = need(variant("smollm2-135m-instruct"), **settings)

        assert estimated.total_bytes == pytest.approx(measured_bytes, rel=0.10)

    def test_a_wider_number_format_widens_weights_that_are_not_quantized(self):
        plain, stored = variant("qwen3-8b", "bf16"), variant("qwen3-8b", "fp8")

        assert need(plain, Device.CUDA, dtype="float32").weights_bytes == 2 * plain.weight_bytes
        assert need(stored, Device.CUDA, dtype="float32").weights_bytes == stored.weight_bytes

    def test_a_model_eight_times_larger_is_within_10_percent_too(self):
        smollm2 = variant("smollm2-135m-instruct")
        shape = msgspec.structs.replace(
            smollm2.shape,
            layers=16,
            hidden_size=2048,
            attention_heads=32,
            kv_heads=8,
            intermediate_size=8192,
        )
        large = msgspec.structs.replace(smollm2, shape=shape, weight_bytes=2_147_483_648)

        assert need(large).total_bytes == pytest.approx(4.433 * GB, rel=0.10)

    def test_minilm_is_within_10_percent_of_the_measured_engine(self):
        assert need(variant("all-minilm-l6-v2")).total_bytes == pytest.approx(1.54 * GB, rel=0.10)

    def test_an_encoder_needs_no_kv_cache(self):
        assert need(variant("all-minilm-l6-v2")).kv_bytes == 0

    def test_the_kv_cache_holds_as_many_tokens_as_the_engine_reports(self):
        smollm2 = variant("smollm2-135m-instruct")
        settings = engine_settings(smollm2, Device.CPU, {})
        large_blocks = msgspec.structs.replace(settings, block_size=None)

        assert kv_tokens(smollm2, settings, Device.CPU, 128 * MIB) == 5824
        assert kv_tokens(smollm2, large_blocks, Device.CPU, 128 * MIB) == 5760


class TestEstimateOnGpus:
    def test_the_parts_add_up(self):
        whole = need(variant("qwen3-8b", "bf16"), Device.CUDA)

        parts = whole.weights_bytes + whole.activation_bytes
        parts += whole.runtime_bytes + whole.graph_bytes
        assert whole.total_bytes == parts + whole.kv_bytes
        assert whole.kv_bytes == 32768 * 147_456

    def test_two_gpus_hold_half_the_weights_and_half_the_cache_each(self):
        qwen = variant("qwen3-8b", "bf16")

        one, two = need(qwen, Device.CUDA), need(qwen, Device.CUDA, tensor_parallel_size=2)

        assert two.weights_bytes == one.weights_bytes // 2
        assert two.kv_bytes == one.kv_bytes // 2

    def test_an_fp8_cache_is_half_as_large(self):
        qwen = variant("qwen3-8b", "bf16")

        fp8 = need(qwen, Device.CUDA, kv_cache_dtype="fp8")

        assert fp8.kv_bytes == need(qwen, Device.CUDA).kv_bytes // 2

    def test_eager_mode_saves_the_graphs(self):
        qwen = variant("qwen3-8b", "bf16")

        eager = need(qwen, Device.CUDA, enforce_eager=True)

        assert eager.graph_bytes < need(qwen, Device.CUDA).graph_bytes
