"""Engine settings: layers above each other, and errors that name the field and the range."""

import msgspec
import pytest

from agents.wire import EngineSettings
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device
from apps.catalog.reading import read_entry
from apps.catalog.settings import RULES, BadSetting, engine_settings

SMOLLM2 = read_entry(BUILT_IN / "smollm2-135m-instruct.yaml").variants[0]
QWEN = read_entry(BUILT_IN / "qwen3-8b.yaml").variant("bf16")


def refused(variant, device, **overrides):
    with pytest.raises(BadSetting) as caught:
        engine_settings(variant, device, overrides)
    return caught.value


class TestEngineSettings:
    def test_every_setting_of_the_wire_has_a_rule_and_a_sentence(self):
        assert set(RULES) == {field.name for field in msgspec.structs.fields(EngineSettings)}
        assert all(rule.help.endswith(".") for rule in RULES.values())

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
            ({"tool_call_parser": ""}, "tool_call_parser", "a name"),
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
