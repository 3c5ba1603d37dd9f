"""What vLLM says of its memory, line by line. The CPU lines are those of a real start."""

import pytest

from agents.engines.vllm import VllmEngine
from agents.engines.vllm_memory import GIB, RESOLUTION_BYTES, read_memory

ENGINE = VllmEngine()


@pytest.mark.parametrize(
    ("line", "part", "gib"),
    [
        (
            "INFO 11-25 23:32:29 [weight_utils.py:1108] Filesystem type for checkpoints: EXT4. "
            "Checkpoint size: 0.25 GiB. Available RAM: 18.92 GiB.",
            "checkpoint_bytes",
            0.25,
        ),
        (
            "INFO 11-25 23:32:36 [cpu_worker.py:260] Explicitly set (0.12/14.09) GiB for KV cache "
            "on node 0.",
            "kv_cache_bytes",
            0.12,
        ),
        ("Model loading took 14.99 GiB memory and 5.123456 seconds", "weights_bytes", 14.99),
        ("Available KV cache memory: 52.31 GiB", "kv_cache_bytes", 52.31),
        ("Graph capturing finished in 21 secs, took 0.63 GiB", "graph_bytes", 0.63),
    ],
    ids=["files on CPU", "cache on CPU", "weights", "cache", "graphs"],
)
def test_reads_the_part_that_a_line_tells(line, part, gib):
    assert dict(read_memory(line)) == {part: int(gib * GIB)}


def test_reads_all_parts_of_the_line_that_sums_up():
    line = (
        "Free memory on device (78.1/79.2 GiB) on startup. Desired GPU memory utilization is "
        "(0.92, 72.86 GiB). Actual usage is 15.40 GiB for consumed memory (weights + non-torch), "
        "1.22 GiB for peak activation, and 0.63 GiB for CUDAGraph memory. Replace ..."
    )

    assert dict(read_memory(line)) == {
        "consumed_bytes": int(15.40 * GIB),
        "activation_bytes": int(1.22 * GIB),
    }


def test_says_nothing_of_other_lines():
    assert read_memory("INFO: Loading weights took 2.54 seconds") == {}


def test_a_line_may_tell_a_stage_and_memory_at_once():
    mark = ENGINE.read_line("Graph capturing finished in 21 secs, took 0.63 GiB")

    assert (mark.stage, mark.seconds) == ("graphs", 21)
    assert mark.memory["graph_bytes"] == pytest.approx(0.63 * GIB, abs=RESOLUTION_BYTES)
