"""What devices can run: one row a method, a reason wherever the answer is no."""

import pytest

from agents.engine_support import TABLE, cpu_lacks, methods_for, why_not


class TestTable:
    def test_every_row_says_what_was_seen_and_where_it_was_read(self):
        assert all(row.cpu_evidence.endswith(".") for row in TABLE)
        assert all(row.gpu_evidence.endswith(".") for row in TABLE)
        assert len({(row.setting, row.method) for row in TABLE}) == len(TABLE)

    @pytest.mark.parametrize(
        ("setting", "method", "says"),
        [
            ("quantization", "fp8", "static_scaled_fp8_quant"),
            ("quantization", "mxfp8", "no kernel"),
            ("quantization", "bitsandbytes", "plugin"),
            ("kv_cache_dtype", "int8_per_token_head", "answers garbage"),
            ("kv_cache_dtype", "turboquant_4bit_nc", "answers garbage"),
        ],
    )
    def test_a_cpu_engine_is_not_offered_what_fails_or_lies(self, setting, method, says):
        assert says in why_not(setting, method, "cpu")
        assert method not in methods_for(setting, "cpu")

    def test_a_cpu_engine_is_offered_what_was_seen_to_answer_rightly(self):
        assert methods_for("quantization", "cpu") == (
            "compressed-tensors", "awq", "gptq", "int8_per_channel_weight_only",
        )  # fmt: skip

    def test_an_old_gpu_is_told_which_generation_a_method_needs(self):
        assert "compute capability 8.0" in why_not("quantization", "mxfp4", "cuda", "7.5")
        assert why_not("quantization", "mxfp4", "cuda", "9.0") == ""
        assert why_not("quantization", "mxfp4", "cuda", "12.0") == ""

    @pytest.mark.parametrize(
        ("setting", "method"),
        [("quantization", "awq"), ("quantization", "gptq"), ("stored", "w4a16")],
    )
    def test_four_bits_need_wide_vectors_of_the_cpu_and_eight_do_not(self, setting, method):
        assert "avx512f" in cpu_lacks(setting, method, frozenset({"avx2"}))
        assert cpu_lacks(setting, method, frozenset({"avx512f"})) == ""
        assert cpu_lacks("stored", "w8a8", frozenset({"avx2"})) == ""

    def test_fp8_kv_cache_needs_wide_vectors_of_the_cpu(self):
        assert "avx512f" in cpu_lacks("kv_cache_dtype", "fp8", frozenset({"avx2"}))
        assert cpu_lacks("kv_cache_dtype", "fp8", frozenset({"avx512f"})) == ""
        assert cpu_lacks("kv_cache_dtype", "auto", frozenset()) == ""
