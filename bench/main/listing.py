"""`GET /api/v1/deployments/` with two hundred deployments, asked of a whole running Hearth.

The rows and their live numbers come from `seed`. Requests go one after the other over one
kept-alive connection; a time is from the request's first byte to the answer's last. The target
holds for the usual page of 50 and for the whole list (`page_size=200`) alike. The CPU of the web
process is shown beside it: it holds on a busy machine too.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from bench.main.figures import Result, median, quantile
from tests.running import ROOT, Hearth, hearth

DEPLOYMENTS = 200
REQUESTS = 100
WARM_UP_REQUESTS = 5
MEDIAN_TARGET_MS = 40.0
QUERIES_TARGET = 8


def measure(folder: Path) -> Result:
    """Start Hearth in `folder`, fill it, and ask for the list."""
    result = Result(part="list", question=f"how long takes a list of {DEPLOYMENTS} deployments?")
    with (
        hearth(folder / "list", HEARTH_RUNTIME="process") as instance,
        seeded(instance) as found,
    ):
        for size in (50, DEPLOYMENTS):
            web = instance.child("uvicorn")
            before = sum(web.cpu_times()[:2])
            times = _times_ms(instance, size)
            cpu_ms = 1000 * (sum(web.cpu_times()[:2]) - before) / (WARM_UP_REQUESTS + REQUESTS)
            page, queries = f"page_size={size}", found["queries"][str(size)]
            result.add(f"{page}: median of {REQUESTS}", median(times), "ms", MEDIAN_TARGET_MS)
            result.add(f"{page}: p99", quantile(times, 0.99), "ms")
            result.add(f"{page}: CPU of the web process per request", cpu_ms, "ms")
            result.add(f"{page}: SQL queries", queries, "", QUERIES_TARGET)
    return result


@contextlib.contextmanager
def seeded(instance: Hearth) -> Iterator[dict[str, Any]]:
    """Fill `instance` and keep its numbers coming while the block runs; give what `seed` says."""
    environment = instance.env | {
        "DJANGO_SETTINGS_MODULE": "controlplane.settings",
        "HEARTH_LOG_LEVEL": "WARNING",
    }
    seed = subprocess.Popen(
        [sys.executable, "-m", "bench.main.seed"],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert seed.stdin is not None
    assert seed.stdout is not None
    try:
        line = seed.stdout.readline()
        assert line, f"the rows could not be written (exit code {seed.wait(10)})"
        yield json.loads(line)
    finally:
        seed.stdin.close()
        seed.wait(10)


def _times_ms(instance: Hearth, size: int) -> list[float]:
    headers = {"Authorization": f"Bearer {instance.token}"}
    times = []
    with httpx.Client(base_url=instance.web, headers=headers, timeout=30) as client:
        for number in range(-WARM_UP_REQUESTS, REQUESTS):
            begun = time.perf_counter()
            answer = client.get("/api/v1/deployments/", params={"page_size": size})
            seconds = time.perf_counter() - begun
            assert answer.status_code == 200, answer.text
            if number >= 0:
                times.append(1000 * seconds)
        rows = answer.json()
    assert (rows["count"], len(rows["results"])) == (DEPLOYMENTS, size)
    assert rows["results"][0]["live"]["in_flight"] == 4, "the live numbers are not in the list"
    return times
