"""`make bench-gateway`: measure the gateway, each figure beside its target and its peers.

    python -m bench.gateway [--only cpu|latency|memory|decision|replay]… [--peer NAME]…
                            [--trace FILE] [--charts FOLDER] [--json]

Peers are measured where an environment of theirs is (see `bench.gateway.programs`). The replay
needs the Mooncake conversation trace; without it the benchmark says so. The exit code is 1 when a
figure missed its target.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.gateway import cost, decision, latency, programs, replay, traffic
from bench.main.figures import Result

TRACE = programs.ROOT.parent / "shared" / "traces" / "mooncake_conversation_trace.jsonl"
_PARTS = ("decision", "cpu", "latency", "memory", "replay")


def main() -> int:
    """Measure what was asked for; return the exit code."""
    options = _options()
    peers = [peer for peer in traffic.PEERS if not options.peer or peer[0] in options.peer]
    parts: dict[str, Callable[[Path], Result]] = {
        "decision": lambda _folder: decision.measure(),
        "cpu": lambda folder: cost.cpu(folder, peers),
        "latency": lambda folder: latency.latency(folder, peers),
        "memory": traffic.memory,
        "replay": lambda _folder: replay.measure(options.trace),
    }
    programs.raise_file_limit()
    if not options.json:
        _name_peers()
    results = []
    for name in options.only or _PARTS:
        with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
            results.append(parts[name](Path(folder)))
        if not options.json:
            print(results[-1].text() + "\n", flush=True)
    found = json.dumps([result.json() for result in results], indent=2)
    if options.charts is not None and not programs.draw(found, options.charts):
        print(f"no charts: no environment with matplotlib at {programs.PEERS / 'charts'}")
    if options.json:
        print(found)
    return int(any(figure.is_met is False for result in results for figure in result.figures))


def _name_peers() -> None:
    for name in dict.fromkeys(name for name, _ in traffic.PEERS):
        found = programs.version(name)
        print(f"{name} {found}" if found else f"{name}: peer not measured, not installed")
    print()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--only", action="append", choices=_PARTS, help="measure this part alone; may be repeated"
    )
    parser.add_argument(
        "--peer", action="append", choices=sorted({name for name, _ in traffic.PEERS}),
        help="measure beside this peer alone; may be repeated",
    )  # fmt: skip
    parser.add_argument("--trace", type=Path, default=TRACE, help="the Mooncake trace")
    parser.add_argument("--charts", type=Path, metavar="FOLDER", help="draw charts there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
