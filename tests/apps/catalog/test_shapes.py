"""KV cache, states and weights of shapes whose sums can be done by hand."""

import pytest

from apps.catalog import shapes
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Experts, LayerGroup, LayerKind, LinearState, Shape
from apps.catalog.reading import read_entry
from apps.catalog.shapes import CacheLayout, Split

PLAIN = {
    "layers": 4,
    "hidden_size": 64,
    "attention_heads": 8,
    "kv_heads": 4,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 1000,
}
MIXTURES = (
    *("qwen3-30b-a3b-instruct-2507", "glm-4.7", "minimax-m2.7", "deepseek-v3.1"),
    *("qwen3.6-35b-a3b", "qwen3.5-122b-a10b", "gpt-oss-20b", "gemma-4-26b-a4b-it"),
    "nemotron-3-nano-30b-a3b",
)
STATE = LinearState(value_heads=4, value_head_dim=8, key_heads=2, key_head_dim=8, conv_kernel=4)


def shape(*groups, **changes):
    return Shape(**{**PLAIN, **changes, "layer_groups": groups})


def request_bytes(of, tokens, **layout):
    return shapes.kv_bytes_of_request(of, tokens, CacheLayout(**layout))


class TestKvBytes:
    def test_full_attention_keeps_keys_and_values_of_every_kv_head(self):
        assert shapes.kv_bytes_per_token(shape(), element_bytes=2) == 4 * 2 * 4 * 16 * 2

    def test_a_one_byte_cache_is_half_as_large(self):
        assert shapes.kv_bytes_per_token(shape(), element_bytes=1) == 4 * 2 * 4 * 16

    @pytest.mark.parametrize(("gpus", "heads_each"), [(2, 2), (4, 1), (8, 1)])
    def test_gpus_share_kv_heads_and_copy_them_when_there_are_too_few(self, gpus, heads_each):
        each = shapes.kv_bytes_per_token(shape(), element_bytes=2, tensor_parallel=gpus)

        assert each == 4 * 2 * heads_each * 16 * 2

    def test_mla_keeps_one_latent_a_token_on_every_gpu(self):
        mla = shape(LayerGroup(kind=LayerKind.MLA, layers=4, latent_dim=576))

        assert shapes.kv_bytes_per_token(mla, element_bytes=2) == 4 * 576 * 2
        assert shapes.kv_bytes_per_token(mla, element_bytes=2, tensor_parallel=8) == 4 * 576 * 2

    def test_a_sliding_window_stops_growing_at_its_length(self):
        half = shape(
            LayerGroup(kind=LayerKind.SLIDING, layers=2, window_tokens=100),
            LayerGroup(kind=LayerKind.FULL, layers=2),
        )
        layer_token = 2 * 4 * 16 * 2

        assert shapes.kv_bytes_per_token(half, element_bytes=2) == 2 * layer_token
        assert request_bytes(half, 50) == 50 * 4 * layer_token
        assert request_bytes(half, 1000) == (1000 + 99) * 2 * layer_token

    def test_a_sliding_window_keeps_what_is_still_being_computed(self):
        sliding = shape(LayerGroup(kind=LayerKind.SLIDING, layers=4, window_tokens=100))
        layer_token = 2 * 4 * 16 * 2

        kept = request_bytes(sliding, 1000, in_flight_tokens=64)

        assert kept == (99 + 64) * 4 * layer_token
        assert request_bytes(sliding, 120, in_flight_tokens=64) == 120 * 4 * layer_token

    def test_a_group_may_have_heads_of_its_own(self):
        mixed = shape(
            LayerGroup(kind=LayerKind.FULL, layers=3),
            LayerGroup(kind=LayerKind.FULL, layers=1, kv_heads=2, head_dim=32),
        )

        assert shapes.kv_bytes_per_token(mixed, element_bytes=2) == 3 * 256 + 1 * 256

    def test_a_linear_layer_keeps_a_state_of_fixed_size(self):
        hybrid = shape(
            LayerGroup(kind=LayerKind.LINEAR, layers=3, state=STATE),
            LayerGroup(kind=LayerKind.FULL, layers=1),
        )
        state = 4 * 8 * 8 * 4 + (4 * 8 + 2 * 2 * 8) * 3 * 2

        assert shapes.state_bytes(STATE) == state
        assert request_bytes(hybrid, 10) - request_bytes(hybrid, 0) == 10 * 256
        assert request_bytes(hybrid, 0) == 3 * state

    def test_prefix_caching_keeps_a_second_state(self):
        linear = shape(LayerGroup(kind=LayerKind.LINEAR, layers=4, state=STATE))

        two = request_bytes(linear, 10, states_per_layer=2)

        assert two == 2 * request_bytes(linear, 10)

    def test_the_state_of_qwen3_6_35b_a3b_is_that_of_its_config(self):
        state = LinearState(
            value_heads=32, value_head_dim=128, key_heads=16, key_head_dim=128, conv_kernel=4
        )

        # 2 MiB recurrent (float32) and 48 KiB convolution (bf16) a layer
        assert shapes.state_bytes(state) == 2 * 1024**2 + 48 * 1024

    @pytest.mark.parametrize("kind", [LayerKind.SHARED, LayerKind.ENCODER, LayerKind.NONE])
    def test_layers_without_a_cache_of_their_own_keep_nothing(self, kind):
        nothing = shape(LayerGroup(kind=kind, layers=4))

        assert request_bytes(nothing, 1000) == 0
        assert not shapes.keeps_cache(nothing)


class TestAgainstTheEngine:
    """What vLLM 0.29 reserves for one request of 262,144 tokens, traced from its own accounting.

    The engine rounds up to whole blocks; that is all the difference there may be.
    """

    @pytest.mark.parametrize(
        ("slug", "layout", "traced_bytes"),
        [
            ("qwen3.8-27b", {"states_per_layer": 2}, 17_520_656_384),
            ("qwen3.8-27b", {"states_per_layer": 1}, 17_366_515_712),
            ("qwen3.6-35b-a3b", {"states_per_layer": 2}, 5_514_854_400),
            ("nemotron-3-nano-30b-a3b", {"states_per_layer": 2}, 1_725_628_416),
            ("gemma-4-31b-it", {"in_flight_tokens": 16_384}, 13_637 * 2_621_440),
            ("gemma-4-31b-it", {"in_flight_tokens": 4_096}, 9_797 * 2_621_440),
        ],
    )
    def test_hybrid_and_sliding_models_are_within_block_rounding(self, slug, layout, traced_bytes):
        of = read_entry(BUILT_IN / f"{slug}.yaml").variants[0].shape

        estimated = request_bytes(of, 262_144, **layout)

        assert estimated <= traced_bytes
        assert estimated == pytest.approx(traced_bytes, rel=0.01)


class TestWeightBytesPerGpu:
    def test_tensor_parallel_splits_evenly(self):
        assert shapes.weight_bytes_per_gpu(shape(), 1_000_000, Split(tensor=4)) == 250_000

    def test_the_fullest_pipeline_stage_has_its_layers_and_one_embedding(self):
        embedding = 1000 * 64 * 2
        body = 800_000

        fullest = shapes.weight_bytes_per_gpu(shape(), body + 2 * embedding, Split(pipeline=3))

        assert fullest == body * 2 // 4 + embedding

    @pytest.mark.parametrize(
        ("split", "experts", "rest"),
        [
            (Split(), 1, 1),
            (Split(tensor=2), 1 / 2, 1 / 2),
            (Split(data=2), 1 / 2, 1),
            (Split(tensor=2, data=2), 1 / 4, 1 / 2),
            (Split(tensor=2, deals_experts=True), 3 / 5, 1 / 2),
            (Split(data=8, deals_experts=True), 1 / 5, 1),
        ],
        ids=["one", "tensor", "data", "tensor and data", "5 experts to 2", "5 experts to 8"],
    )
    def test_experts_are_dealt_to_all_and_the_rest_is_copied(self, split, experts, rest):
        mixed = shape(experts=Experts(count=5, width=96, layers=4))
        embedding, attention = 1000 * 64 * 2, 4 * 64 * 16 * 24 * 2
        of_experts = 4 * 5 * 3 * 64 * 96 * 2
        whole = 2 * embedding + attention + of_experts

        fullest = shapes.weight_bytes_per_gpu(mixed, whole, split)

        assert shapes.expert_bytes(mixed, whole) == of_experts
        assert fullest == pytest.approx(
            of_experts * experts + (2 * embedding + attention) * rest, abs=2
        )

    def test_a_dense_model_is_copied_whole_by_data_parallelism(self):
        assert shapes.weight_bytes_per_gpu(shape(), 1_000_000, Split(data=4)) == 1_000_000

    @pytest.mark.parametrize("slug", MIXTURES)
    def test_experts_of_the_catalog_add_up_to_most_of_the_published_parameters(self, slug):
        entry = read_entry(BUILT_IN / f"{slug}.yaml")
        variant = next(v for v in entry.variants if v.weight_bytes)
        assert variant.shape.experts is not None
        of = variant.shape.experts
        count = of.layers * of.count * of.matrices * variant.shape.hidden_size * of.width

        assert 0.85 < count / entry.parameters.total < 0.99


class TestElementBytes:
    @pytest.mark.parametrize(
        ("dtype", "kv_cache_dtype", "expected"),
        [
            (None, None, 2),
            ("auto", "auto", 2),
            ("float32", None, 4),
            (None, "fp8", 1),
            ("float32", "fp8_e4m3", 1),
            ("float32", "bfloat16", 2),
        ],
    )
    def test_the_cache_follows_the_model_unless_told(self, dtype, kv_cache_dtype, expected):
        assert shapes.kv_element_bytes(shape(), dtype, kv_cache_dtype) == expected
