"""How retrieval grows with the number of chunks, on the embedded Milvus, without an engine.

Chunks are English-like text of 120 words from a vocabulary with Zipf's frequencies; their vectors
lie in clusters, as those of real texts do. Measured is the product's own code: both legs, fusion
and SQL, in a Django process of its own with a database of its own.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from bench.main.figures import Result, median
from bench.rag.words import Words

ROOT = Path(__file__).resolve().parents[2]
QUERIES = 60
DIMENSION = 384
TARGET_MS = {10_000: 60.0, 100_000: 250.0}
MEMORY_TARGET_MB = 150.0


def measure(folder: Path, sizes: list[int]) -> list[Result]:
    """Return one result for each size."""
    results = []
    for size in sizes:
        place = folder / str(size)
        place.mkdir()
        found = _in_own_process(place, size)
        result = Result(
            part=f"scale {size:,}", question="what does a search of so many chunks cost?"
        )
        target = TARGET_MS.get(size)
        result.add("search, both legs, fusion, SQL: CPU p50", found["cpu_p50_ms"], "ms", target)
        result.add("  of it in the vectors process", found["milvus_p50_ms"], "ms")
        result.add("search, wall p50", found["wall_p50_ms"], "ms")
        result.add("ingestion without embedder, a chunk: CPU", found["ingest_ms"], "ms", 2.0)
        result.add("  of it in the vectors process", found["ingest_milvus_ms"], "ms")
        result.add("  wall, with what the machine did besides", found["ingest_wall_ms"], "ms")
        result.add("memory that search adds to web", found["memory_mb"], "MB", MEMORY_TARGET_MB)
        result.add("memory of the vectors process", found["milvus_mb"], "MB")
        results.append(result)
    return results


def _in_own_process(folder: Path, size: int) -> dict[str, float]:
    environment = {
        **os.environ,
        "HEARTH_DATA_DIR": str(folder),
        "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        "PYTHONPATH": str(ROOT),
        "HEARTH_LOG_LEVEL": "ERROR",
    }
    answer = subprocess.run(
        [sys.executable, "-m", "bench.rag.scale", str(size)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def _run(size: int) -> dict[str, float]:
    """Fill, search, and return the figures; runs in the process made for it."""
    import django  # noqa: PLC0415

    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    from django.conf import settings  # noqa: PLC0415

    run = Path(settings.RUN_DIR)
    run.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "apps.rag.vectord", "--folder", f"{settings.DATA_DIR}/milvus"]
    milvus = subprocess.Popen([*command, "--socket", str(run / "vectors.sock")], cwd=ROOT)
    try:
        pause = threading.Event()
        while not (run / "vectors.sock:0").exists():
            pause.wait(0.1)
        return _measured(size, psutil.Process(milvus.pid))
    finally:
        milvus.terminate()
        milvus.wait(30)


def _measured(size: int, milvus: psutil.Process) -> dict[str, float]:
    from bench.rag import filling  # noqa: PLC0415

    words = Words(7)
    filled = filling.fill(size, words.text, DIMENSION, milvus)
    found = filling.searches(filled.base, [words.text(8) for _ in range(QUERIES)], milvus)
    return {
        "ingest_ms": filled.worker_ms + filled.milvus_ms,
        "ingest_milvus_ms": filled.milvus_ms,
        "ingest_wall_ms": filled.wall_ms,
        "cpu_p50_ms": median([one.cpu_ms for one in found.searches]),
        "milvus_p50_ms": median([one.milvus_ms for one in found.searches]),
        "wall_p50_ms": median([one.wall_ms for one in found.searches]),
        "memory_mb": found.memory_mb,
        "milvus_mb": milvus.memory_full_info().pss / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(_run(int(sys.argv[1]))))
