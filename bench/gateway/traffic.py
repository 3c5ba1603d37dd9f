"""Traffic through the gateway and its peers by the same load, and the memory it holds.

Called by `bench.gateway.__main__`; `bench.gateway.cost` and `bench.gateway.latency` measure what a
request costs and waits by the same means.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from bench.gateway import programs
from bench.gateway.load import Tally
from bench.gateway.programs import Program
from bench.main.figures import Result

STREAM_CHUNKS = 64
CONNECTIONS = 32
STREAM_STEP_MS = 8.0
PROMPT_BYTES = 2048
STALLED_SECONDS = 40
"""Less than the time after which a reader that takes nothing is given up."""

PEERS = (
    ("vllm-router", "round_robin"),
    ("vllm-router", "cache_aware"),
    ("sglang-router", "cache_aware"),
    ("aiohttp", ""),
    ("litellm", ""),
)
SLOW = {"litellm"}
"""Hundreds of times dearer than the others: could not follow the load of the latencies."""

BASE = "vllm-router round_robin"
_MOST_WAIT_SECONDS = 10.0
_MOST_LOAD_SECONDS = 120.0


type Peers = Sequence[tuple[str, str]]
"""Program and policy of each."""


class RunFailedError(Exception):
    """Something went wrong under load, so the figures do not count."""


class Measured(Protocol):
    """One of those that are measured in turn."""

    @property
    def is_peer(self) -> bool:
        """Its failure costs its own figures, and not the whole run."""

    def measure(self, number: int) -> None:
        """Take part in round `number`; those below 0 warm up. Raises RunFailedError."""


def in_rounds[M: Measured](everyone: Sequence[M], rounds: int) -> list[M]:
    """Measure all in short rounds, in an order that turns; return those that did not fail."""
    left = list(everyone)
    for number in range(-1, rounds):
        for one in list(left) if number % 2 else left[::-1]:
            try:
                one.measure(number)
            except RunFailedError as error:
                if not one.is_peer:
                    raise
                print(f"  {error}: peer not measured")
                left.remove(one)
    return left


def subjects(
    folder: Path, ports: list[int], peers: Peers
) -> Iterator[AbstractContextManager[Program | None]]:
    """Yield how to start each program; None where one cannot be measured."""
    for form in ("", "interpreted"):
        # Apart, so that those of one time are no peers of each other.
        home = folder / (form or "compiled")
        home.mkdir(exist_ok=True)
        yield programs.gateway(home, ports, form=form)
    for name, policy in peers:
        yield programs.peer(name, policy, ports)


def run(name: str, load: Coroutine[None, None, Tally]) -> Tally:
    """Run `load` against the program `name`. Raises RunFailedError if it does not end."""
    try:
        return asyncio.run(asyncio.wait_for(load, _MOST_LOAD_SECONDS))
    except TimeoutError as error:
        raise RunFailedError(f"{name}: no end of the load in {_MOST_LOAD_SECONDS:g} s") from error


def check(program: Program, tally: Tally, sent: int) -> None:
    """Refuse figures of a run in which something went wrong; `sent` is of the whole program."""
    if tally.failed:
        raise RunFailedError(f"{program.name}: {tally.failed} requests failed")
    if program.usage_log is None:
        return
    deadline = time.monotonic() + _MOST_WAIT_SECONDS
    while program.records() != sent:
        if time.monotonic() > deadline:
            raise RunFailedError(f"{program.records()} usage records for {sent} requests")
        time.sleep(0.05)


def memory(folder: Path) -> Result:
    """Resident memory idle, under open streams, and before readers that take nothing."""
    result = Result(part="memory", question="how much memory does it hold?")
    with programs.engines(0, 500.0) as ports, programs.gateway(folder, ports) as program:
        time.sleep(1.0)
        result.add("idle", program.memory_bytes() / 1e6, "MB", at_most=60)
        with _open(program.port, 2000):
            time.sleep(4.0)
            result.add("2,000 open streams", program.memory_bytes() / 1e6, "MB", at_most=200)
    with programs.engines(0, 10.0, 40) as ports, programs.gateway(folder, ports) as program:
        before = program.memory_bytes()
        with _open(program.port, 200):
            samples = []
            for _ in range(STALLED_SECONDS):
                time.sleep(1.0)
                samples.append(program.memory_bytes())
        result.add("200 stalled readers: most above idle", (max(samples) - before) / 1e6, "MB")
        middle = STALLED_SECONDS // 2
        growth = max(samples[middle:]) - max(samples[:middle])
        name = f"  growth in the last {STALLED_SECONDS - middle} s of {STALLED_SECONDS}"
        result.add(name, growth / 1e6, "MB", at_most=1.0)
    return result


@contextlib.contextmanager
def _open(port: int, count: int) -> Iterator[None]:
    """Hold `count` streams open and read their heads alone."""
    sockets = []
    try:
        for number in range(count):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            connection.connect(("127.0.0.1", port))
            connection.sendall(request(number % programs.KEYS, stream=True))
            sockets.append(connection)
        for connection in sockets:
            connection.settimeout(_MOST_WAIT_SECONDS)
            head = connection.recv(64)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"a stream did not begin: {head!r}")
        yield
    finally:
        for connection in sockets:
            connection.close()


def requests(*, stream: bool) -> list[bytes]:
    """Return one request of each key."""
    return [request(number, stream=stream) for number in range(programs.KEYS)]


def request(number: int, *, stream: bool) -> bytes:
    """Return one request: half of its prompt is shared by all, half is its own."""
    words = ("You are a helpful assistant. " * 40)[: PROMPT_BYTES // 2]
    own = (f"Question {number}: what is {number * 7919} plus one? " * 40)[: PROMPT_BYTES // 2]
    messages = [{"role": "system", "content": words}, {"role": "user", "content": own}]
    fields = {"model": "m", "messages": messages, "max_tokens": 64, "stream": stream}
    body = json.dumps(fields, separators=(",", ":")).encode()
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        "user-agent: OpenAI/Python 1.0\r\naccept: application/json\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {programs.secret(number)}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
