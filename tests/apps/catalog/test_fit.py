"""Where models fit: choice of variant, GPUs and settings, and reasons that help."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.catalog.catalog import BUILT_IN
from apps.catalog.entry import Device, UnknownVariant
from apps.catalog.fit import DoesNotFit, Wish, choose_variant, fit
from apps.catalog.reading import read_entry
from apps.catalog.settings import BadSetting
from tests.apps.catalog.rooms import GB, cpu_host, gpu, gpu_host

ENTRIES = {path.stem: read_entry(path) for path in sorted(BUILT_IN.glob("*.yaml"))}
SMOLLM2 = ENTRIES["smollm2-135m-instruct"]
MINILM = ENTRIES["all-minilm-l6-v2"]
QWEN_8B = ENTRIES["qwen3-8b"]
LLAMA_70B = ENTRIES["llama-3.3-70b-instruct"]


def refused(entry, rooms, **wish):
    with pytest.raises(DoesNotFit) as caught:
        choose_variant(entry, rooms, Wish(**wish))
    return caught.value


class TestChooseVariant:
    def test_a_cpu_host_takes_the_small_model(self):
        choice = choose_variant(SMOLLM2, [cpu_host()], Wish())

        assert (choice.variant.name, choice.device) == ("q4_1", Device.CPU)
        assert choice.best.reserve_bytes == choice.best.need.total_bytes
        assert choice.best.kv_tokens == 5824
        assert choice.best.full_length_requests == 2

    def test_a_gpu_is_preferred_to_a_cpu(self):
        choice = choose_variant(SMOLLM2, [cpu_host(), gpu_host()], Wish())

        assert (choice.best.host, choice.device) == ("rack", Device.CUDA)

    def test_the_order_may_insist_on_a_device(self):
        choice = choose_variant(SMOLLM2, [gpu_host()], Wish(device=Device.CPU))

        assert choice.device is Device.CPU

    def test_the_first_recommended_variant_that_fits_is_taken(self):
        small, tiny = gpu(total_bytes=24 * GB), gpu(total_bytes=16 * GB)

        assert choose_variant(QWEN_8B, [gpu_host(gpus=[small])], Wish()).variant.name == "fp8"
        assert choose_variant(QWEN_8B, [gpu_host(gpus=[tiny])], Wish()).variant.name == "awq"

    def test_a_gpu_without_kernels_for_a_variant_takes_another(self):
        turing = gpu(capability="7.5", total_bytes=24 * GB)

        assert choose_variant(QWEN_8B, [gpu_host(gpus=[turing])], Wish()).variant.name == "awq"

    def test_a_large_model_takes_as_few_gpus_as_hold_it(self):
        gpus = [gpu(i, total_bytes=80 * GB, capability="9.0", name="H100") for i in range(8)]

        choice = choose_variant(LLAMA_70B, [gpu_host(gpus=gpus)], Wish(variant="bf16"))

        assert len(choice.best.gpu_uuids) == 4
        assert choice.best.settings.tensor_parallel_size == 4

    def test_data_parallel_copies_multiply_the_gpus_and_the_requests(self):
        gpus = [gpu(i, total_bytes=80 * GB, capability="9.0", name="H100") for i in range(4)]
        mixture = ENTRIES["qwen3-30b-a3b-instruct-2507"]
        once = {"tensor_parallel_size": 2}

        one = choose_variant(mixture, [gpu_host(gpus=gpus)], Wish(variant="bf16", engine=once)).best
        wish = Wish(variant="bf16", engine={**once, "data_parallel_size": 2})
        two = choose_variant(mixture, [gpu_host(gpus=gpus)], wish).best

        assert (len(one.gpu_uuids), len(two.gpu_uuids)) == (2, 4)
        # Half of the experts on each GPU: the room is the cache's, and there are two caches.
        assert two.need.weights_bytes < 0.55 * one.need.weights_bytes
        assert two.full_length_requests > 2 * one.full_length_requests

    def test_a_group_is_of_one_kind_of_gpu(self):
        gpus = [gpu(0, total_bytes=80 * GB, capability="9.0", name="H100")]
        gpus += [gpu(i, total_bytes=80 * GB, capability="8.0", name="A100") for i in (1, 2, 3, 4)]

        choice = choose_variant(LLAMA_70B, [gpu_host(gpus=gpus)], Wish(variant="bf16"))

        assert set(choice.best.gpu_uuids) == {"GPU-1", "GPU-2", "GPU-3", "GPU-4"}

    def test_memory_that_others_hold_lowers_the_share_the_engine_takes(self):
        busy = gpu(total_bytes=80 * GB, free_bytes=40 * GB, capability="9.0")

        best = choose_variant(QWEN_8B, [gpu_host(gpus=[busy])], Wish()).best

        assert best.settings.gpu_memory_utilization == 0.5
        assert best.reserve_bytes <= 40 * GB

    def test_a_model_without_a_cache_takes_only_what_it_needs(self):
        best = choose_variant(MINILM, [gpu_host()], Wish()).best

        assert best.reserve_bytes < 2.5 * GB
        assert best.kv_tokens == 0

    def test_the_host_with_the_most_room_for_tokens_stands_first(self):
        rooms = [
            gpu_host("small", [gpu(total_bytes=24 * GB)]),
            gpu_host("large", [gpu(total_bytes=48 * GB)]),
        ]

        choice = choose_variant(QWEN_8B, rooms, Wish())

        assert [host.host for host in choice.hosts] == ["large", "small"]

    def test_more_wanted_requests_need_a_larger_cache(self):
        room = gpu_host(gpus=[gpu(total_bytes=21 * GB)])

        one = choose_variant(QWEN_8B, [room], Wish())
        two = choose_variant(QWEN_8B, [room], Wish(full_length_requests=2))

        assert (one.variant.name, two.variant.name) == ("fp8", "awq")
        assert two.best.full_length_requests >= 2

    def test_an_unknown_variant_says_which_there_are(self):
        with pytest.raises(UnknownVariant, match="take one of fp8, bf16, awq"):
            choose_variant(QWEN_8B, [gpu_host()], Wish(variant="fp4"))

    def test_a_wrong_setting_is_an_error_and_not_a_lack_of_room(self):
        with pytest.raises(BadSetting, match="did you mean `max_model_len`"):
            choose_variant(QWEN_8B, [gpu_host()], Wish(engine={"max_model_lenght": 1}))

    def test_an_engine_that_is_too_old_is_named(self):
        error = refused(QWEN_8B, [gpu_host(engine_version="0.8.0+cpu")])

        assert error.reasons == ("rack: it has vLLM 0.8.0+cpu, the model needs 0.8.5 or later",)


class TestTheNumberFormatOfACpu:
    NARROW = cpu_host(cpu_features=frozenset())

    def on(self, host, entry=SMOLLM2, **engine):
        return choose_variant(entry, [host], Wish(engine=engine)).best

    def test_a_cpu_without_wide_vectors_computes_in_float32_and_keeps_its_tokens(self):
        narrow, wide = self.on(self.NARROW), self.on(cpu_host(cpu_features=frozenset({"avx512f"})))

        assert (wide.settings.dtype, narrow.settings.dtype) == (None, "float32")
        assert narrow.kv_tokens == wide.kv_tokens
        assert narrow.need.weights_bytes == 2 * wide.need.weights_bytes
        assert narrow.need.kv_bytes == 2 * wide.need.kv_bytes

    def test_a_host_that_does_not_tell_its_features_is_left_to_the_engine(self):
        assert self.on(cpu_host()).settings.dtype is None

    @pytest.mark.parametrize("given", [{"dtype": "auto"}, {"dtype": "bfloat16"}])
    def test_a_given_format_is_taken_as_it_is(self, given):
        assert self.on(self.NARROW, **given).settings.dtype == given["dtype"]

    def test_a_given_cache_is_taken_as_it_is(self):
        best = self.on(self.NARROW, kv_cache_bytes=256 * 1024**2)

        assert (best.settings.dtype, best.need.kv_bytes) == ("float32", 256 * 1024**2)

    def test_a_quantized_engine_keeps_the_format_of_its_kernels(self):
        best = self.on(self.NARROW, quantization="int8_per_channel_weight_only")

        assert best.settings.dtype is None

    def test_where_only_the_smaller_format_fits_it_is_taken(self):
        roomy = self.on(self.NARROW)
        host = replace(self.NARROW, memory_available_bytes=roomy.reserve_bytes - 1)

        assert self.on(host).settings.dtype is None

    def test_a_cache_type_without_kernels_on_this_cpu_is_refused_before_the_start(self):
        error = refused(SMOLLM2, [self.NARROW], engine={"kv_cache_dtype": "fp8"})

        assert "`kv_cache_dtype` fp8: this host's CPU has none of avx512f" in str(error)


class TestWhatTheSummariesPromise:
    @pytest.mark.parametrize(
        ("slug", "count", "gigabytes", "capability"),
        [
            ("gemma-4-26b-a4b-it", 1, 80, "9.0"),
            ("gemma-4-31b-it", 1, 80, "9.0"),
            ("gpt-oss-20b", 1, 24, "8.9"),
            ("gpt-oss-120b", 1, 80, "9.0"),
            ("llama-3.1-8b-instruct", 1, 24, "8.9"),
            ("llama-3.3-70b-instruct", 2, 80, "9.0"),
            ("minimax-m2.7", 4, 80, "9.0"),
            ("ministral-3-14b-instruct", 1, 24, "8.9"),
            ("mistral-small-3.2-24b-instruct", 1, 80, "9.0"),
            ("deepseek-v3.1", 8, 141, "9.0"),
            ("glm-4.7", 8, 80, "9.0"),
            ("qwen3-8b", 1, 24, "8.9"),
            ("qwen3-14b", 1, 24, "8.9"),
            ("qwen3-32b", 1, 80, "9.0"),
            ("qwen3-embedding-8b", 1, 24, "8.9"),
            ("qwen3.5-9b", 1, 32, "12.0"),
            ("qwen3.5-122b-a10b", 2, 80, "9.0"),
            ("qwen3.6-27b", 1, 48, "8.9"),
        ],
    )
    def test_the_model_fits_the_gpus_it_names(self, slug, count, gigabytes, capability):
        gpus = [gpu(i, total_bytes=gigabytes * GB, capability=capability) for i in range(count)]

        assert len(choose_variant(ENTRIES[slug], [gpu_host(gpus=gpus)], Wish()).hosts) == 1


class TestDoesNotFit:
    def test_it_says_how_much_is_missing_and_what_fits(self):
        room = gpu_host(gpus=[gpu(total_bytes=16 * GB)])

        error = refused(QWEN_8B, [room], variant="bf16")

        assert error.nearest.variant == "awq"
        assert error.missing_bytes > 9 * GB
        assert "bf16 needs 24.16 GB on a GPU and 14.72 GB is free: 9.44 GB short" in str(error)
        assert str(error).endswith("Nearest that fits: variant awq on cuda of rack.")

    def test_it_says_which_context_would_fit(self):
        room = gpu_host(gpus=[gpu(total_bytes=16 * GB)])

        answer = fit(QWEN_8B, [QWEN_8B.variant("fp8")], [room], Wish()).hosts[0]

        assert 1024 <= answer.largest_context_tokens < 32768
        shorter = Wish(variant="fp8", engine={"max_model_len": answer.largest_context_tokens})
        assert choose_variant(QWEN_8B, [room], shorter).variant.name == "fp8"

    def test_a_cpu_host_without_memory_says_so(self):
        error = refused(SMOLLM2, [cpu_host(memory_bytes=1 * GB)])

        assert "of memory and 1.00 GB is free" in str(error)
        assert error.nearest is None

    def test_a_kv_cache_smaller_than_one_request_is_found_before_the_start(self):
        error = refused(SMOLLM2, [cpu_host()], engine={"kv_cache_bytes": 16 * 1024**2})

        assert "`kv_cache_bytes` is 17 MB" in error.reasons[0]
        assert "`max_model_len` of 728" in error.reasons[0]

    def test_a_host_without_gpus_is_told_from_one_with_old_gpus(self):
        old = gpu_host("old", [gpu(capability="7.0")])

        error = refused(QWEN_8B, [cpu_host(), old], variant="awq")

        assert error.reasons == (
            "laptop: it has no GPU to run it on",
            "old: awq needs GPUs of compute capability 7.5 or later",
        )

    def test_labels_and_host_are_obeyed(self):
        rooms = [cpu_host("a", labels={"zone": "1"}), cpu_host("b", labels={"zone": "2"})]

        assert choose_variant(SMOLLM2, rooms, Wish(labels={"zone": "2"})).best.host == "b"
        assert choose_variant(SMOLLM2, rooms, Wish(host="a")).best.host == "a"
        error = refused(SMOLLM2, rooms, labels={"zone": "3"})
        assert error.reasons[0] == "a: label zone=3 is missing"

    def test_no_hosts_at_all_is_said_plainly(self):
        assert "no host has joined yet" in str(refused(SMOLLM2, []))

    def test_a_device_the_model_never_runs_on_is_a_wrong_wish(self):
        with pytest.raises(BadSetting, match="it runs on cuda"):
            choose_variant(QWEN_8B, [gpu_host()], Wish(device=Device.CPU))


class TestEveryAnswer:
    @settings(deadline=None)  # what is checked are the answers, whatever else the machine does
    @given(
        slug=st.sampled_from(sorted(ENTRIES)),
        total=st.integers(4, 200),
        free_ratio=st.floats(0, 1),
        count=st.integers(1, 8),
        memory=st.integers(1, 64),
    )
    def test_never_takes_more_than_is_free(self, slug, total, free_ratio, count, memory):
        gpus = [
            gpu(
                i, total_bytes=total * GB, free_bytes=int(total * GB * free_ratio), capability="9.0"
            )
            for i in range(count)
        ]
        room = gpu_host(gpus=gpus, memory_bytes=memory * GB)
        entry = ENTRIES[slug]

        answer = fit(entry, entry.ranked_variants, [room], Wish()).hosts[0]

        free = memory * GB if answer.device is Device.CPU else int(total * GB * free_ratio)
        if answer.fits:
            assert answer.need.total_bytes <= answer.reserve_bytes <= free
            assert len(answer.gpu_uuids) in {0, answer.settings.tensor_parallel_size}
        else:
            assert answer.reason
