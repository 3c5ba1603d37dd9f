"""`make bench-rag`: measure retrieval, ingestion and answers, each figure beside its target.

    python -m bench.rag [--only scale|rebuild|quality|conversation]… [--cranfield FOLDER] [--json]

`scale` and `rebuild` need no engine: the embedded Milvus with 10,000 and 100,000 chunks, and
another index of 10,000 while questions run. `quality` starts a
Hearth with the real MiniLM, ingests the Cranfield collection (1,400 abstracts, 225 questions; not
part of this repository), and measures ranking, and a rebuild while questions run. `conversation`
asks three turns of the real SmolLM2. CPU figures are process time: other work on the machine delays
them but does not enter them.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.main.figures import Result
from bench.rag import conversation, quality, rebuilding, scale

PARTS = ("scale", "rebuild", "quality", "conversation")
DEFAULT_CRANFIELD = Path(os.environ.get("HEARTH_CRANFIELD", "../shared/retrieval/cranfield"))


def main() -> int:
    """Measure what was asked for; return 1 when a figure missed its target."""
    parser = argparse.ArgumentParser(prog="python -m bench.rag", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--cranfield", type=Path, default=DEFAULT_CRANFIELD)
    parser.add_argument("--chunks", type=int, action="append", help="sizes of `scale`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], list[Result]]] = {
        "scale": lambda folder: scale.measure(folder, options.chunks or [10_000, 100_000]),
        "rebuild": rebuilding.measure,
        "quality": lambda folder: quality.measure(folder, options.cranfield),
        "conversation": lambda folder: conversation.measure(folder, options.cranfield),
    }
    results: list[Result] = []
    for name in options.only or parts:
        with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
            found = parts[name](Path(folder))
        results += found
        if not options.json:
            print("\n\n".join(result.text() for result in found) + "\n", flush=True)
    if options.json:
        print(json.dumps([result.json() for result in results], indent=2))
    return int(any(figure.is_met is False for result in results for figure in result.figures))


if __name__ == "__main__":
    sys.exit(main())
