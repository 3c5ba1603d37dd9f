"""`python -m bench.coldstart`: two starts of the real engine on CPU in compiled mode, and a wake.

    python -m bench.coldstart [--json]

A Hearth of its own in a temporary folder deploys SmolLM2 with an empty compile cache: the first
start. It falls to zero, and a chat through the gateway brings the cached replica back: the second
start, with warm caches. The timelines are those that Hearth measured; the wait is the chat's own.
The engine's environment and the weights lie in the cache already, or are brought first. Wall time:
run it on a machine that does nothing else.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from bench.main.figures import Result
from tests.running import Hearth, hearth

CATALOG = "smollm2-135m-instruct"
TARGET_RATIO = 0.6
START_SECONDS = 900.0
IDLE_SECONDS = 10
"""The shortest idle time that a policy may have."""


def main() -> int:
    """Measure; return 1 if the figure missed its target."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="hearth-cold-") as folder:
        result = measure(Path(folder))
    print(json.dumps(result.json(), indent=2) if options.json else result.text())
    return int(any(figure.is_met is False for figure in result.figures))


def measure(folder: Path) -> Result:
    """Start with an empty compile cache, fall to zero, and wake by a chat."""
    result = Result(part="coldstart", question="what do warm caches save, and who waits how long?")
    scaling = {"min_replicas": 0, "max_replicas": 1, "scale_to_zero_after_seconds": IDLE_SECONDS}
    with _real(folder) as instance:
        instance.deploy(CATALOG, name=CATALOG, scaling=scaling, engine={"enforce_eager": False})
        _wait_for(instance, "ready", START_SECONDS)
        first = _newest(instance)
        print(f"first start: {first['seconds']:.1f} s", file=sys.stderr, flush=True)
        _wait_for(instance, "asleep", 300.0)
        seconds, comments, text = _ask(instance.client(instance.key()))
        second = _newest(instance)
    result.add("first start, empty compile cache", first["seconds"], "s")
    result.add(f"second start, warm caches (rung: {second['rung']})", second["seconds"], "s")
    result.add("second to first", second["seconds"] / first["seconds"], "", TARGET_RATIO)
    result.add("chat at zero: request to first token", seconds, "s")
    result.add("comments that kept its stream open", comments, "")
    result.table = [*_timelines(first, second), ("answer", "", text)]
    return result


def _real(folder: Path) -> Any:
    return hearth(
        folder / "h", HEARTH_RUNTIME="process", HEARTH_COMPILED_DIR=str(folder / "compiled")
    )


def _wait_for(instance: Hearth, phase: str, timeout_seconds: float) -> None:
    """Wait for `phase`, asking seldom: questions would take their part of what is measured."""
    pause, deadline = threading.Event(), time.monotonic() + timeout_seconds
    while (found := instance.deployment(CATALOG))["phase"] != phase:
        if time.monotonic() > deadline or (found["phase"] == "failed" != phase):
            raise AssertionError(f"{CATALOG} is {found['phase']}, not {phase}: {found['reason']}")
        pause.wait(1.0)


def _newest(instance: Hearth) -> dict[str, Any]:
    """Return the newest start as Hearth measured it."""
    rows = instance.api("GET", f"deployments/{CATALOG}/starts/").json()["results"]
    found: dict[str, Any] = rows[0]
    return found


def _timelines(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, ...]]:
    took = [{s["stage"]: s["seconds"] for s in start["stages"]} for start in (first, second)]
    names = list(dict.fromkeys([*took[0], *took[1]]))
    rows = [(name, f"{took[0].get(name, 0):.1f}", f"{took[1].get(name, 0):.1f}") for name in names]
    return [("stage", "first s", "second s"), *rows]


def _ask(client: httpx.Client) -> tuple[float, int, str]:
    """Stream a chat; return seconds to the first token, comments before it, and the text."""
    body = {
        "model": CATALOG, "stream": True, "max_tokens": 12, "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }  # fmt: skip
    begun, first, comments, words = time.perf_counter(), 0.0, 0, []
    with client.stream("POST", "/v1/chat/completions", json=body, timeout=600) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            comments += line.startswith(":")
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                text = choices[0]["delta"].get("content") if choices else None
                if text:
                    first = first or time.perf_counter() - begun
                    words.append(text)
    return first, comments, "".join(words)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.coldstart", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
