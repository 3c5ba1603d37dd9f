"""`python -m bench.coldstart`: what a warm cache saves on a start of the real engine on CPU.

    python -m bench.coldstart [--only compiled|wake]… [--json]

`compiled` starts one model twice in compiled mode, the first time with an empty compile cache, and
compares the timelines that Hearth measured. `wake` lets a deployment fall to zero and sends a chat
through the gateway: the cached replica comes back and the answer streams. Both bring a Hearth of
their own in a temporary folder; the engine's environment and the weights lie in the cache already,
or are brought first. Wall time: run it on a machine that does nothing else.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from bench.main.figures import Result
from tests.running import Hearth, hearth, wait_until

CATALOG = "smollm2-135m-instruct"
TARGET_RATIO = 0.6
START_SECONDS = 900.0
GONE_SECONDS = 120.0
IDLE_SECONDS = 10
"""The shortest idle time that a policy may have."""


def main() -> int:
    """Measure what was asked for; return 1 if a figure missed its target."""
    options = _options()
    parts: dict[str, Callable[[Path], Result]] = {"compiled": compiled, "wake": wake}
    results = []
    for name in options.only or parts:
        with tempfile.TemporaryDirectory(prefix="hearth-cold-") as folder:
            results.append(parts[name](Path(folder)))
        if not options.json:
            print(results[-1].text() + "\n", flush=True)
    if options.json:
        print(json.dumps([result.json() for result in results], indent=2))
    return int(any(figure.is_met is False for result in results for figure in result.figures))


def compiled(folder: Path) -> Result:
    """Start twice in compiled mode; the second start finds what the first one compiled."""
    result = Result(part="compiled", question="what does the shared compile cache save?")
    with _real(folder) as instance:
        first, second = (_start(instance, {"enforce_eager": False}) for _ in range(2))
    result.add("first start, empty compile cache", first["seconds"], "s")
    result.add("second start, warm caches", second["seconds"], "s")
    ratio = second["seconds"] / first["seconds"]
    result.add("second to first", ratio, "", TARGET_RATIO)
    result.table = _timelines(first, second)
    return result


def wake(folder: Path) -> Result:
    """Fall to zero, ask through the gateway, and time the first token of the answer."""
    result = Result(part="wake", question="how long does a request wait for a cached replica?")
    with _real(folder) as instance:
        scaling = {
            "min_replicas": 0, "max_replicas": 1, "scale_to_zero_after_seconds": IDLE_SECONDS
        }  # fmt: skip
        instance.deploy(CATALOG, name=CATALOG, scaling=scaling)
        instance.wait_for(CATALOG, "ready", START_SECONDS)
        client = instance.client(instance.key())
        _ask(client)
        instance.wait_for(CATALOG, "asleep", 300.0)
        seconds, comments, text = _ask(client)
        newest = _starts(instance)[0]
    result.add("request to first token from zero, cached rung", seconds, "s")
    result.add("of it the start as measured", newest["seconds"], "s")
    result.add("comments that kept the stream open", comments, "")
    result.table = [("rung", "answer"), (newest["rung"], text)]
    return result


def _real(folder: Path) -> Any:
    return hearth(
        folder / "h", HEARTH_RUNTIME="process", HEARTH_COMPILED_DIR=str(folder / "compiled")
    )


def _start(instance: Hearth, engine: dict[str, Any]) -> dict[str, Any]:
    """Deploy, wait until it serves, take its timeline, delete it."""
    instance.deploy(CATALOG, name=CATALOG, engine=engine)
    instance.wait_for(CATALOG, "ready", START_SECONDS)
    newest = _starts(instance)[0]
    instance.api("DELETE", f"deployments/{CATALOG}/")
    wait_until(lambda: _is_gone(instance), GONE_SECONDS, f"{CATALOG} to be gone")
    return newest


def _starts(instance: Hearth) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = instance.api("GET", f"deployments/{CATALOG}/starts/").json()[
        "results"
    ]
    return found


def _is_gone(instance: Hearth) -> bool:
    return instance.api("GET", f"deployments/{CATALOG}/").status_code == 404


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
    parser.add_argument("--only", action="append", choices=("compiled", "wake"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
