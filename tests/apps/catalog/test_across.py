"""Models that outgrow a host: which hosts would hold them together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.catalog.across import across_hosts
from apps.catalog.catalog import BUILT_IN
from apps.catalog.fit import DoesNotFit, Wish, choose_variant
from apps.catalog.reading import read_entry
from tests.apps.catalog.rooms import GB, gpu, gpu_host

DEEPSEEK = read_entry(BUILT_IN / "deepseek-v3.1.yaml")
LLAMA_70B = read_entry(BUILT_IN / "llama-3.3-70b-instruct.yaml")
BF16 = LLAMA_70B.variant("bf16")


def h100s(name: str, count: int, *, free_bytes: int = 80 * GB, kind: str = "H100"):
    gpus = [
        gpu(i, total_bytes=80 * GB, free_bytes=free_bytes, capability="9.0", name=kind)
        for i in range(count)
    ]
    return gpu_host(name, gpus=gpus)


class TestAcrossHosts:
    @pytest.mark.parametrize(
        ("variant", "rooms", "hosts", "each"),
        [
            (BF16, [("a", 2), ("b", 2)], ("a", "b"), 2),
            (BF16, [("a", 1), ("b", 2), ("c", 2)], ("b", "c"), 2),
            (BF16, [("a", 1), ("b", 1), ("c", 1), ("d", 1)], ("a", "b", "c"), 1),
            (DEEPSEEK.ranked_variants[0], [("a", 8), ("b", 8)], ("a", "b"), 8),
        ],
        ids=[
            "70B on 2 x 2",
            "not the small one",
            "70B on 3 x 1",
            "671B on 2 x 8",
        ],
    )
    def test_takes_the_fewest_hosts_and_then_the_fewest_gpus(self, variant, rooms, hosts, each):
        found = across_hosts(variant, [h100s(*room) for room in rooms], Wish())

        assert (found.hosts, found.gpus_each) == (hosts, each)
        split = found.fit.settings
        assert (split.tensor_parallel_size, split.pipeline_parallel_size) == (each, len(hosts))
        assert found.fit.reserve_bytes <= 80 * GB
        assert found.fit.kv_tokens > 0

    def test_all_gpus_are_of_one_kind(self):
        rooms = [h100s("a", 2), h100s("b", 2, kind="A100"), h100s("c", 2, kind="A100")]

        found = across_hosts(BF16, rooms, Wish())

        assert (found.hosts, found.gpu_kind) == (("b", "c"), "A100")

    @pytest.mark.parametrize(
        "wish",
        [Wish(host="a"), Wish(gpu_ratio=0.5), Wish(engine={"pipeline_parallel_size": 3})],
        ids=["one host is named", "a fraction of a GPU", "three stages and two hosts"],
    )
    def test_offers_no_group_that_the_order_does_not_allow(self, wish):
        assert across_hosts(BF16, [h100s("a", 2), h100s("b", 2)], wish) is None

    def test_labels_count_for_every_member(self):
        rooms = [h100s("a", 2), h100s("b", 2)]

        assert across_hosts(BF16, rooms, Wish(labels={"zone": "x"})) is None

    def test_what_fits_no_host_alone_tells_the_group(self):
        with pytest.raises(DoesNotFit) as caught:
            choose_variant(LLAMA_70B, [h100s("a", 2), h100s("b", 2)], Wish(variant="bf16"))

        assert str(caught.value.group).startswith(
            "a, b hold bf16 together: 2 GPUs of kind H100 each"
        )

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 8), st.integers(0, 80), st.sampled_from(["H100", "A100"])),
            max_size=6,
        )
    )
    def test_never_counts_on_more_than_each_host_has_free(self, machines):
        rooms = [
            h100s(f"host-{n}", count, free_bytes=free * GB, kind=kind)
            for n, (count, free, kind) in enumerate(machines)
            if count
        ]

        found = across_hosts(BF16, rooms, Wish())

        by_name = {room.name: room for room in rooms}
        for name in found.hosts if found else ():
            able = [g for g in by_name[name].gpus if g.free_bytes >= found.fit.reserve_bytes]
            assert len(able) >= found.gpus_each
            assert {g.name for g in able} == {found.gpu_kind}
