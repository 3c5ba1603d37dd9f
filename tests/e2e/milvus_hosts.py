"""Other engines behind the one door to Milvus, each in an environment of its own in the cache.

They are installed from the package index once (20 s) and kept. The tests' own Milvus is the
embedded one; these two are older and can less, which is what the tests want of them.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from agents.engines.environment import cache_root
from tests.running import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0

_CORE = """
import sys, threading
from milvus_lite.server import Server
server = Server(sys.argv[1] + "/milvus.db", address=sys.argv[2])
server.init()
server.start()
threading.Event().wait()
"""
_SERVER = """
import sys, signal, threading
from milvus import MilvusServer
server = MilvusServer()
server.set_base_dir(sys.argv[1])
server.listen_port = int(sys.argv[2].rpartition(":")[2])
over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
server.start()
over.wait()
server.stop()
"""


@contextlib.contextmanager
def core(folder: Path) -> Iterator[str]:
    """Run milvus-lite 2.5.1, the C++ core, over TCP; give its address."""
    with _running("lite-2.5.1", ("milvus-lite==2.5.1", "setuptools<81"), _CORE, folder) as address:
        yield address


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run the Milvus server 2.3.5 of its wheel, without BM25; give its address."""
    with _running("server-2.3.5", ("milvus==2.3.5",), _SERVER, folder) as address:
        yield address


@contextlib.contextmanager
def _running(name: str, packages: tuple[str, ...], code: str, folder: Path) -> Iterator[str]:
    python = _environment(name, packages)
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [python, "-W", "ignore", "-c", code, str(folder), address], start_new_session=True
    )
    try:
        wait_until(lambda: _listens(address, process), START_SECONDS, f"{name} to listen")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # the core runs in a child that stays
            os.killpg(process.pid, signal.SIGKILL)


def _listens(address: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "it ended at once"
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 0.5):
        return True
    return False


def _environment(name: str, packages: tuple[str, ...]) -> str:
    folder = cache_root() / "milvus" / name
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            uv = str(ROOT / ".tools" / "bin" / "uv")
            make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)]
            subprocess.run(make, check=True)
            bring = [uv, "pip", "install", "-q", "--python", str(python), *packages]
            subprocess.run(bring, check=True)
            (folder / "installed").touch()
    return str(python)
