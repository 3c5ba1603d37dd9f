"""`make bench-main`: measure what Hearth promises about itself, each figure beside its target.

    python -m bench.main [--only start|idle|list|live]… [--pairs N] [--json]

Each part starts a Hearth of its own in a temporary folder and ends it; parts are independent. The
exit code is 1 when a figure missed its target. Run it on a machine that does nothing else: `start`,
`list` and `live` are wall time.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.main import idle, listing, live, start
from bench.main.figures import Result

DEFAULT_PAIRS = 5


def main() -> int:
    """Measure what was asked for; return the exit code."""
    options = _options()
    parts: dict[str, Callable[[Path], Result]] = {
        "idle": idle.measure,
        "list": listing.measure,
        "live": live.measure,
        "start": lambda folder: start.measure(folder, options.pairs),
    }
    results = []
    for name in options.only or parts:
        # A short path: sockets lie below it.
        with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
            results.append(parts[name](Path(folder)))
        if not options.json:
            print(results[-1].text() + "\n", flush=True)
    if options.json:
        print(json.dumps([result.json() for result in results], indent=2))
    return int(any(figure.is_met is False for result in results for figure in result.figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.main", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--only",
        action="append",
        choices=("idle", "list", "live", "start"),
        help="measure this part alone; may be given again",
    )
    parser.add_argument(
        "--pairs", type=int, default=DEFAULT_PAIRS, help="pairs of `start` (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}: use 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
