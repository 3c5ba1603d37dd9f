"""Times one model in several number formats. Runs in the engine's own Python.

    python timed.py JOBS.json

JOBS.json is a list of `{"runner": ..., "config": keyword arguments of vllm.LLM}`. Each runs in a
fork of one process that has vLLM imported. Prints one line of JSON a job: its seconds by part.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from vllm import LLM, SamplingParams

SENTENCE = "the boundary layer of a flat plate at supersonic speed was measured in a wind tunnel "
ABSTRACTS, PROMPT_REPEATS, OUTPUT_TOKENS = 16, 60, 32


def main() -> None:
    """Run the jobs one after the other."""
    for job in json.loads(Path(sys.argv[1]).read_text()):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _run(job)
        os.waitpid(child, 0)


def _run(job: dict) -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what the engine prints
    llm = LLM(**job["config"])
    seconds = _embedding(llm) if job["runner"] == "pooling" else _generating(llm)
    os.write(answer, (json.dumps(seconds) + "\n").encode())
    os._exit(0)


def _embedding(llm: LLM) -> dict[str, float]:
    llm.embed(["warm"], use_tqdm=False)
    texts = [f"{number} {SENTENCE * 14}" for number in range(ABSTRACTS)]
    return {"embed": _timed(lambda: llm.embed(texts, use_tqdm=False))}


def _generating(llm: LLM) -> dict[str, float]:
    one = SamplingParams(max_tokens=1)
    many = SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True, temperature=0)
    llm.generate(["warm"], one, use_tqdm=False)
    prompt = SENTENCE * PROMPT_REPEATS
    return {
        "prefill": _timed(lambda: llm.generate([prompt], one, use_tqdm=False)),
        "decode": _timed(lambda: llm.generate(["Once upon"], many, use_tqdm=False)),
    }


def _timed(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
