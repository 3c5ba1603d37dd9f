"""What traffic costs: latency added, memory. Gateway and peers by the same load.

Called by `bench.gateway.__main__`; what CPU it costs is measured by `bench.gateway.cost`, by the
same means.
"""

import asyncio
import contextlib
import json
import socket
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.gateway import programs
from bench.gateway.load import Load, Tally
from bench.gateway.programs import Program
from bench.main.figures import Result, quantile

ROUNDS = 3
STREAM_CHUNKS = 64
CONNECTIONS = 32
STREAM_STEP_MS = 8.0
PER_SECOND = 200.0
WARM_UP = 200
STEADY_REQUESTS = 1000
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


def _measured[T](program: Program | None, measure: Callable[[Program], T]) -> T | None:
    """Measure `program`; a peer that fails costs its own figures, and not the whole run."""
    if program is None:
        return None
    try:
        return measure(program)
    except RunFailedError as error:
        if program.usage_log is not None:
            raise
        print(f"  {error}: peer not measured in this round")
        return None


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


def latency(folder: Path, peers: Peers = PEERS) -> Result:
    """What the way through the gateway adds to the time to the first byte, in rounds of all."""
    result = Result(part="latency", question=f"what is added at {PER_SECOND:.0f} requests/s?")
    found: dict[str, list[tuple[float, float]]] = {}
    peers = [peer for peer in peers if peer[0] not in SLOW]
    with programs.engines(STREAM_CHUNKS, STREAM_STEP_MS) as ports:
        for _ in range(ROUNDS):
            _add_round(
                found, _quantiles(_steady("direct", ports[0])), subjects(folder, ports, peers)
            )
    medians = {
        name: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for name, rounds in found.items()
    }
    base = medians.get(BASE, (None, None))
    for place, name in enumerate(("p50", "p99")):
        value = medians["hearth"][place]
        result.add(f"added to the first byte, {name}", value, "us", base[place])
    result.table.append(("program", "p50 us", "p99 us", "p50 of each round", "p99 of each round"))
    for name, rounds in found.items():
        columns = (
            " ".join(f"{value:.0f}" for value in column) for column in zip(*rounds, strict=True)
        )
        result.table.append((name, *(f"{value:.0f}" for value in medians[name]), *columns))
    return result


def _add_round(
    found: dict[str, list[tuple[float, float]]],
    direct: tuple[float, float],
    subjects: Iterator[AbstractContextManager[Program | None]],
) -> None:
    for start in subjects:
        with start as program:
            through = _measured(program, _checked_quantiles)
            if program is not None and through is not None:
                added = through[0] - direct[0], through[1] - direct[1]
                found.setdefault(program.name, []).append(added)


def _checked_quantiles(program: Program) -> tuple[float, float]:
    tally = _steady(program.name, program.port)
    check(program, tally, WARM_UP + STEADY_REQUESTS)
    return _quantiles(tally)


def _quantiles(tally: Tally) -> tuple[float, float]:
    times = tally.first_byte_seconds
    return quantile(times, 0.5) * 1e6, quantile(times, 0.99) * 1e6


def _steady(name: str, port: int) -> Tally:
    load = Load(port, requests(stream=False))
    run(name, load.steady(WARM_UP, PER_SECOND, CONNECTIONS))
    return run(name, load.steady(STEADY_REQUESTS, PER_SECOND, CONNECTIONS))


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
