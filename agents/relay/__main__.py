"""The program `python -m agents.relay`: the one listening port of a host.

It outlives the agent that starts it, holds nothing but open connections, and imports little: an
idle relay should not be noticed. SIGTERM: let go of the port at once, let streams end, go.
"""

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
from pathlib import Path

import uvloop

from agents.relay.access import Access
from agents.relay.exchange import Front
from agents.relay.files import CONFIG, Running, code_version, write_running

DRAIN_SECONDS = 600.0
"""For streams to end after SIGTERM; a new relay serves meanwhile."""
EXIT_USAGE = 2


def main() -> int:
    given = _parser().parse_args()
    try:
        return uvloop.run(_serve(given))
    except OSError as error:
        sys.stderr.write(f"hearth relay: cannot listen on {given.listen}: {error.strerror}\n")
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agents.relay")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    return parser


async def _serve(given: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told_to_end.set)
    host, _, port = given.listen.rpartition(":")
    host = host.strip("[]")
    access = Access(given.data_dir / CONFIG)
    version = code_version()
    health = json.dumps({"status": "ok", "pid": os.getpid(), "version": version}).encode()
    connections: set[Front] = set()
    server = await loop.create_server(
        lambda: Front(access, health, connections), host, int(port), ssl=_tls(given), backlog=1024
    )
    bound = server.sockets[0].getsockname()[1]
    write_running(given.data_dir, Running(os.getpid(), host, bound, version))
    await told_to_end.wait()
    server.close()
    await _drain(connections)
    return 0


async def _drain(connections: set[Front]) -> None:
    """Wait until every connection has answered what it holds, at most DRAIN_SECONDS."""
    for front in list(connections):
        front.leave()
    for _ in range(round(DRAIN_SECONDS / 0.2)):
        if not connections:
            return
        await asyncio.sleep(0.2)


def _tls(given: argparse.Namespace) -> ssl.SSLContext | None:
    if not given.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(given.tls_cert, given.tls_key)
    return context


if __name__ == "__main__":
    sys.exit(main())
