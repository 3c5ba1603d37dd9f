"""The estimate goes by what engines said, part by part."""

from dataclasses import replace

import pytest

from agents.wire import EngineSettings
from apps.catalog.answer import Wish
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device
from apps.catalog.fit import choose_variant
from apps.catalog.learned import Start, compare, estimated_parts, learn
from apps.catalog.reading import read_entry
from apps.catalog.rooms import GpuRoom, HostRoom

GB = 10**9
ENTRY = read_entry(BUILT_IN / "qwen3-8b.yaml")
VARIANT = ENTRY.variant("bf16")
SETTINGS = EngineSettings(max_model_len=32768)
ROOM = HostRoom(
    name="alpha",
    memory_available_bytes=64 * GB,
    devices=frozenset({Device.CPU, Device.CUDA}),
    gpus=(
        GpuRoom(
            uuid="GPU-0",
            name="NVIDIA H100",
            kind="h100",
            total_bytes=85 * GB,
            free_bytes=85 * GB,
            compute_capability="9.0",
        ),
    ),
)


def start(**measured: int) -> Start:
    return Start(
        variant="bf16",
        device_kind="h100",
        digest="d",
        estimated=estimated_parts(VARIANT, SETTINGS, Device.CUDA, 50 * GB),
        measured=measured,
    )


def ask(*learned: Start):
    wish = Wish(variant="bf16", learned=learned, engine={"kv_cache_bytes": 50 * GB})
    return choose_variant(ENTRY, [ROOM], wish).best


class TestLearn:
    def test_corrects_each_part_by_itself(self):
        plain, taught = ask(), ask(start(weights_bytes=20 * GB))

        assert taught.need.weights_bytes == pytest.approx(20 * GB, rel=0.001)
        assert taught.need.activation_bytes == plain.need.activation_bytes
        assert taught.kv_tokens == plain.kv_tokens
        assert taught.lesson.sources == {"weights_bytes": "this variant on such a device"}

    def test_corrects_the_tokens_that_a_cache_holds(self):
        plain = ask()
        half = start(kv_bytes=50 * GB, kv_tokens=plain.kv_tokens // 2)

        taught = ask(half)

        assert taught.kv_tokens == pytest.approx(plain.kv_tokens / 2, rel=0.01)
        assert taught.need.weights_bytes == plain.need.weights_bytes

    def test_takes_the_runtime_from_another_model_and_nothing_else(self):
        other = replace(start(runtime_bytes=3 * GB, weights_bytes=99 * GB), variant="other")

        lesson = learn([other], VARIANT, SETTINGS, "h100")

        assert lesson.sources == {"runtime_bytes": "another model on such a device"}

    @pytest.mark.parametrize(
        "unlike",
        [{"device_kind": "l4"}, {"tensor_parallel": 2}, {"variant": "fp8"}],
        ids=["kind of GPU", "split", "variant"],
    )
    def test_learns_no_weights_from_a_start_of_another(self, unlike):
        other = replace(start(weights_bytes=99 * GB), **unlike)

        assert "weights_bytes" not in learn([other], VARIANT, SETTINGS, "h100").ratios

    def test_believes_the_newest_start(self):
        lesson = learn(
            [start(weights_bytes=20 * GB), start(weights_bytes=30 * GB)], VARIANT, SETTINGS, "h100"
        )

        assert lesson.ratio("weights_bytes") == pytest.approx(20 * GB / VARIANT.weight_bytes)

    def test_does_not_learn_from_the_rounding_of_a_log(self):
        close = VARIANT.weight_bytes + 4_000_000

        assert learn([start(weights_bytes=close)], VARIANT, SETTINGS, "h100").ratios == {
            "weights_bytes": 1.0
        }


class TestCompare:
    def test_says_how_far_off_each_part_was(self):
        parts = compare(
            {"weights_bytes": 11 * GB, "kv_tokens": 100, "runtime_bytes": 5},
            {"weights_bytes": 10 * GB, "kv_tokens": 120},
        )

        assert [(c.part, round(c.error_ratio, 2)) for c in parts] == [
            ("weights_bytes", 0.1),
            ("kv_tokens", -0.17),
        ]
        assert [c.is_wrong for c in parts] == [False, True]
