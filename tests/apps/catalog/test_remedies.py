"""What would make a model fit: one change at a time, and each does."""

from dataclasses import replace

import pytest

from apps.catalog.answer import Wish
from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device
from apps.catalog.fit import fit, with_remedies
from apps.catalog.reading import read_entry
from apps.catalog.rooms import GpuRoom, HostRoom

GB = 10**9
ENTRY = read_entry(BUILT_IN / "qwen3-8b.yaml")


def room(name: str = "alpha", *, gpus: int = 1, gb: int = 24) -> HostRoom:
    return HostRoom(
        name=name,
        memory_available_bytes=1 * GB,
        devices=frozenset({Device.CPU, Device.CUDA}),
        gpus=tuple(
            GpuRoom(
                uuid=f"{name}-{n}",
                name="NVIDIA L4",
                kind="l4",
                total_bytes=gb * GB,
                free_bytes=gb * GB,
                compute_capability="8.9",
            )
            for n in range(gpus)
        ),
    )


def remedies(*rooms: HostRoom, **wish) -> dict[str, object]:
    asked = Wish(**{"variant": "bf16", **wish})
    found = fit(ENTRY, [ENTRY.variant("bf16")], rooms, asked).hosts
    answer = with_remedies(ENTRY, found, rooms, asked)[0]
    assert not answer.fits
    return {remedy.kind: remedy.value for remedy in answer.remedies}


class TestRemedies:
    def test_offers_a_smaller_variant(self):
        assert remedies(room(gb=18))["variant"] in ("fp8", "awq")

    def test_offers_a_shorter_context_that_fits(self):
        found = remedies(room(), engine={"max_model_len": 40_960})

        shorter = replace(
            Wish(variant="bf16"), engine={"max_model_len": int(str(found["context"]))}
        )
        assert fit(ENTRY, [ENTRY.variant("bf16")], [room()], shorter).fits

    def test_offers_fewer_requests_at_once(self):
        wish = {"engine": {"max_model_len": 16_384}, "full_length_requests": 4}

        assert remedies(room(), **wish)["concurrency"] in (1, 2, 3)

    def test_offers_a_smaller_number_format_of_the_cache(self):
        wish = {"engine": {"max_model_len": 16_384}, "full_length_requests": 2}

        assert remedies(room(), **wish)["kv_cache_dtype"] == "fp8"

    def test_offers_more_gpus_where_the_order_names_too_few(self):
        wish = {"engine": {"tensor_parallel_size": 1, "max_model_len": 40_960}}

        assert remedies(room(gpus=2), **wish)["tensor_parallel"] == 2

    def test_offers_another_host(self):
        assert remedies(room(gb=18), room("beta", gb=80))["host"] == "beta"

    @pytest.mark.parametrize("gb", [4, 6])
    def test_offers_nothing_where_no_single_change_does(self, gb):
        assert remedies(room(gb=gb), engine={"max_model_len": 40_960}) == {}
