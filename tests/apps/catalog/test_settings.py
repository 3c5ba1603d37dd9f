"""Engine settings: layers above each other, and errors that name the field and the range."""

import msgspec
import pytest

from agents.wire import EngineSettings
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device
from apps.catalog.reading import read_entry
from apps.catalog.settings import SETTINGS, BadSetting, engine_settings, gpu_refusal

SMOLLM2 = read_entry(BUILT_IN / "smollm2-135m-instruct.yaml").variants[0]
QWEN = read_entry(BUILT_IN / "qwen3-8b.yaml").variant("bf16")


def refused(variant, device, **overrides):
    with pytest.raises(BadSetting) as caught:
        engine_settings(variant, device, overrides)
    return caught.value


class TestEngineSettings:
    def test_every_setting_of_the_wire_has_a_rule_and_a_sentence(self):
        assert set(SETTINGS) == {field.name for field in msgspec.structs.fields(EngineSettings)}
        assert all(setting.help.endswith(".") for setting in SETTINGS.values())

    def test_a_device_stands_above_the_variant_and_the_order_above_both(self):
        settings = engine_settings(SMOLLM2, Device.CPU, {"max_num_seqs": 4})

        assert settings.max_model_len == 2048
        assert settings.block_size == 32
        assert settings.max_num_seqs == 4

    def test_none_goes_back_to_the_engines_default(self):
        settings = engine_settings(SMOLLM2, "cpu", {"kv_cache_bytes": None})

        assert settings.kv_cache_bytes is None

    @pytest.mark.parametrize(
        ("overrides", "field", "says"),
        [
            ({"max_model_length": 100}, "max_model_length", "did you mean `max_model_len`?"),
            ({"tp": 2}, "tp", "known are"),
            ({"max_num_seqs": 0}, "max_num_seqs", "a whole number from 1 to 4096"),
            ({"max_num_seqs": 2.5}, "max_num_seqs", "a whole number from 1 to 4096"),
            ({"max_num_seqs": True}, "max_num_seqs", "a whole number from 1 to 4096"),
            ({"max_model_len": 9000}, "max_model_len", "give at most 8192"),
            ({"block_size": 48}, "block_size", "a multiple of 32"),
            ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization", "from 0.05 to 0.98"),
            ({"kv_cache_dtype": "int8_per_token_head"}, "kv_cache_dtype", "one of auto"),
            ({"enforce_eager": "yes"}, "enforce_eager", "true or false"),
            ({"tensor_parallel_size": 2}, "tensor_parallel_size", "give one of 1, 3, 9"),
            ({"pipeline_parallel_size": 31}, "pipeline_parallel_size", "give at most 30"),
            ({"quantization": "fp8"}, "quantization", "Give one of"),
            ({"quantization": "mxfp4"}, "quantization", "nobody has seen it run on a CPU"),
            ({"kv_cache_dtype": "turboquant_4bit_nc"}, "kv_cache_dtype", "answers garbage"),
            ({"attention_backend": "FLASH_ATTN"}, "attention_backend", "cannot be set on cpu"),
            ({"kv_offload_bytes": 1024}, "kv_offload_bytes", "CUDA and XPU engines only"),
            ({"speculative_method": "eagle"}, "speculative_model", "a second model"),
            ({"speculative_tokens": 2}, "speculative_tokens", "means nothing without"),
            ({"extra_args": ["--max-log-length", "1"]}, "extra_args", "did you mean"),
            ({"extra_args": "--x"}, "extra_args", "a list of words"),
            ({"lora_adapters": {"A B": "path:/a"}}, "lora_adapters", "is no name"),
            ({"lora_adapters": {"a": "/tmp"}}, "lora_adapters", "write `hf:"),
            ({"tool_call_parser": ""}, "tool_call_parser", "one of apertus"),
        ],
    )
    def test_a_wrong_setting_names_its_field_and_what_is_accepted(self, overrides, field, says):
        error = refused(SMOLLM2, Device.CPU, **overrides)

        assert error.field == field
        assert f"`{field}`" in str(error)
        assert says in str(error)

    def test_more_gpus_than_kv_heads_are_accepted_when_they_are_a_multiple(self):
        settings = engine_settings(QWEN, Device.CUDA, {"tensor_parallel_size": 16})

        assert settings.tensor_parallel_size == 16

    def test_a_device_the_variant_does_not_run_on_is_refused(self):
        error = refused(QWEN, Device.CPU)

        assert str(error) == "`device`: variant bf16 does not run on cpu; it runs on cuda"

    def test_weights_stored_quantized_are_not_quantized_once_more(self):
        fp8 = read_entry(BUILT_IN / "qwen3-8b.yaml").variant("fp8")

        error = refused(fp8, Device.CUDA, quantization="int8_per_channel_weight_only")

        assert "are fp8 already" in str(error)

    def test_a_gpu_too_old_for_the_weights_is_told_what_it_can_run(self):
        settings = engine_settings(QWEN, Device.CUDA, {"kv_cache_dtype": "fp8"})

        assert "compute capability 8.0" in gpu_refusal(QWEN, settings, "7.5")
        assert gpu_refusal(QWEN, settings, "8.9") == ""

    @pytest.mark.parametrize("entry", sorted(BUILT_IN.glob("*.yaml")), ids=lambda path: path.stem)
    def test_no_variant_claims_a_gpu_older_than_its_method_needs(self, entry):
        for variant in read_entry(entry).variants:
            rules = variant.devices.get(Device.CUDA)
            if rules is not None and rules.min_compute_capability:
                settings = engine_settings(variant, Device.CUDA, {})
                assert gpu_refusal(variant, settings, rules.min_compute_capability) == ""
