"""Starts the real vLLM once a configuration. Runs in the engine's own Python.

    python starts.py CONFIGS.json FOLDER

CONFIGS.json is a list of keyword arguments of `vllm.LLM`. Each configuration is started in a fork
of one process that has vLLM imported, which takes four seconds in place of twenty; what the engine
prints goes to FOLDER/<number>.log. Prints the numbers of those that came up.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from vllm import LLM


def main() -> int:
    """Start each configuration; return how many did not start."""
    configs, folder = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    failed = 0
    for number, config in enumerate(configs):
        child = os.fork()
        if child == 0:
            _start(config, f"{folder}/{number}.log")
        if os.waitpid(child, 0)[1] == 0:
            print(number, flush=True)
        else:
            failed += 1
    return failed


def _start(config: dict, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    LLM(**config)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
