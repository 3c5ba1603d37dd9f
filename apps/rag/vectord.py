"""The `vectors` process: holds the embedded Milvus, on a Unix socket for this user alone.

`python -m apps.rag.vectord --folder DATA/milvus --socket RUN/vectors.sock`. Milvus Lite has neither
accounts nor TLS, so it gets no TCP port: whoever may open the socket (mode 0700, in a folder of the
same mode) may read everything. One process may open the folder: a second one says so and ends.
Writes are in its log before they are acknowledged. Loads no Django.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

# Before numpy: threads of one multiplication cost more here than they bring.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from apps.rag import unpandas

unpandas.forbid()

from milvus_lite.adapter.grpc.server import start_server_in_thread  # noqa: E402
from milvus_lite.exceptions import DataDirLockedError  # noqa: E402

from apps.rag import steady, swift  # noqa: E402

STOP_SECONDS = 5.0
THREADS = 10


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="vectord", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    options = parser.parse_args()
    os.umask(0o077)
    options.folder.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    # gRPC's Python server puts a port behind every address, a path too.
    swift.install()
    steady.install()
    listening = Path(f"{options.socket}:0")
    drawn = options.socket.with_suffix(".next")
    try:
        server, held, _ = start_server_in_thread(
            str(options.folder), host=f"unix:{drawn}", port=0, max_workers=THREADS
        )
    except DataDirLockedError:
        sys.stderr.write(f"vectors: another process holds {options.folder}\n")
        return 2
    # Only now: until the folder is open, callers see the old state of things.
    Path(f"{drawn}:0").replace(listening)
    sys.stderr.write(f"vectors: serving {options.folder} on {listening}\n")
    while not over.wait(steady.STILL_SECONDS / 2):
        steady.flush_still(held, time.monotonic())
    with contextlib.suppress(FileNotFoundError):
        listening.unlink()
    server.stop(STOP_SECONDS).wait(STOP_SECONDS)
    held.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
