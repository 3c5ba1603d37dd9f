"""KV cache, states and weights of shapes whose sums can be done by hand."""

import pytest

from apps.catalog import shapes
from apps.catalog.entry import LayerGroup, LayerKind, LinearState, Shape

PLAIN = {
    "layers": 4,
    "hidden_size": 64,
    "attention_heads": 8,
    "kv_heads": 4,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 1000,
}
STATE = LinearState(value_heads=4, value_head_dim=8, key_heads=2, key_head_dim=8, conv_kernel=4)


def shape(*groups, **changes):
    return Shape(**{**PLAIN, **changes, "layer_groups": groups})


def request_bytes(of, tokens, **more):
    return shapes.kv_bytes_of_request(of, tokens=tokens, element_bytes=2, **more)


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
        assert request_bytes(half, 1000) == (1000 + 100) * 2 * layer_token

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


class TestWeightBytesPerGpu:
    def test_tensor_parallel_splits_evenly(self):
        assert shapes.weight_bytes_per_gpu(shape(), 1_000_000, tensor_parallel=4) == 250_000

    def test_the_fullest_pipeline_stage_has_its_layers_and_one_embedding(self):
        embedding = 1000 * 64 * 2
        body = 800_000

        fullest = shapes.weight_bytes_per_gpu(shape(), body + 2 * embedding, pipeline_parallel=3)

        assert fullest == body * 2 // 4 + embedding


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
