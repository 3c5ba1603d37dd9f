"""The program `python -m agents`; see `agents.program`."""

import importlib
import logging
import os
import sys

# httpx loads its command line, and with it click and rich, wherever these are installed: 5 MB and
# a quarter of a second that an agent has no use for. It does without if that import fails.
sys.modules["httpx._main"] = None  # type: ignore[assignment]

if __name__ == "__main__":
    code = importlib.import_module("agents.program").main()
    logging.shutdown()
    sys.stdout.flush()
    # A runtime's call may hang in a thread, and a normal exit would wait for it. All state is on
    # the disk by now.
    os._exit(code)
