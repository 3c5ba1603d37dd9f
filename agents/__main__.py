"""The program `python -m agents`; see `agents.program`."""

import importlib
import logging
import os
import sys

# httpx loads its command line, and with it click and rich, wherever these are installed: 5 MB and
# a quarter of a second that an agent has no use for. httpcore looks along the whole path for a
# sniffio that is not there, four times a request. Both do without if the import fails at once.
for unwanted in ("httpx._main", "sniffio"):
    sys.modules[unwanted] = None  # type: ignore[assignment]

if __name__ == "__main__":
    code = importlib.import_module("agents.program").main()
    logging.shutdown()
    sys.stdout.flush()
    # A runtime's call may hang in a thread, and a normal exit would wait for it. All state is on
    # the disk by now.
    os._exit(code)
