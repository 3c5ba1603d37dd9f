"""What traffic costs: CPU per request, latency added, memory. Gateway and peers by the same load.

CPU is of the measured process alone, all threads, from the scheduler's own account, so the load
generator and the engines on the same machine do not count. Called by `bench.gateway.__main__`.
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
PLAIN_REQUESTS = 6000
STREAM_CHUNKS = 64
STREAM_REQUESTS = 500
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
)
BASE = "vllm-router round_robin"
_MOST_WAIT_SECONDS = 10.0
_MOST_LOAD_SECONDS = 120.0


type Peers = Sequence[tuple[str, str]]
"""Program and policy of each."""


class RunFailedError(Exception):
    """Something went wrong under load, so the figures do not count."""


def cpu(folder: Path, peers: Peers = PEERS) -> Result:
    """CPU per plain and per streamed request, beside the peers'."""
    result = Result(part="cpu", question="what does a request cost the gateway?")
    plain = _compare(folder, result, peers, stream=False)
    streamed = _compare(folder, result, peers, stream=True)
    _add(result, f"CPU per request, {PROMPT_BYTES // 1024} kB prompt", plain, 0.75)
    _add(result, f"CPU per streamed request of {STREAM_CHUNKS} chunks", streamed, 0.80)
    result.table.insert(0, ("program", "kind", "us per request", "rounds"))
    return result


def _add(result: Result, name: str, found: dict[str, float], share: float) -> None:
    base = found.get(BASE)
    result.add(name, found["hearth"], "us", at_most=share * base if base else None)
    if base:
        result.add(f"  the same as a share of {BASE}", found["hearth"] / base, "", at_most=share)
    else:
        print(f"  {BASE}: peer not measured (no environment at {programs.PEERS})")


def _compare(folder: Path, result: Result, peers: Peers, *, stream: bool) -> dict[str, float]:
    """Measure each program `ROUNDS` times in turn; return its median microseconds a request."""
    found: dict[str, list[float]] = {}
    with programs.engines(STREAM_CHUNKS, STREAM_STEP_MS) as ports:
        for _ in range(ROUNDS):
            for start in _subjects(folder, ports, peers):
                with start as program:
                    cost = _measured(program, lambda program: _cost(program, stream=stream))
                    if program is not None and cost is not None:
                        found.setdefault(program.name, []).append(cost)
    for name, costs in found.items():
        rounds = " ".join(f"{cost:.0f}" for cost in costs)
        kind = "streamed" if stream else "plain"
        result.table.append((name, kind, f"{statistics.median(costs):.0f}", rounds))
    return {name: statistics.median(costs) for name, costs in found.items()}


def _subjects(
    folder: Path, ports: list[int], peers: Peers
) -> Iterator[AbstractContextManager[Program | None]]:
    yield programs.gateway(folder, ports)
    yield programs.gateway(folder, ports, form="interpreted")
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


def _cost(program: Program, *, stream: bool) -> float:
    count = STREAM_REQUESTS if stream else PLAIN_REQUESTS
    load = Load(program.port, requests(stream=stream))
    _run(program.name, load.closed_loop(count // 5, CONNECTIONS))
    before = program.cpu_seconds()
    tally = _run(program.name, load.closed_loop(count, CONNECTIONS))
    spent = program.cpu_seconds() - before
    _check(program, tally, count + count // 5)
    return spent / count * 1e6


def _run(name: str, load: Coroutine[None, None, Tally]) -> Tally:
    try:
        return asyncio.run(asyncio.wait_for(load, _MOST_LOAD_SECONDS))
    except TimeoutError as error:
        raise RunFailedError(f"{name}: no end of the load in {_MOST_LOAD_SECONDS:g} s") from error


def _check(program: Program, tally: Tally, sent: int) -> None:
    """Refuse figures of a run in which something went wrong."""
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
    with programs.engines(STREAM_CHUNKS, STREAM_STEP_MS) as ports:
        for _ in range(ROUNDS):
            _add_round(
                found, _quantiles(_steady("direct", ports[0])), _subjects(folder, ports, peers)
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
    _check(program, tally, WARM_UP + STEADY_REQUESTS)
    return _quantiles(tally)


def _quantiles(tally: Tally) -> tuple[float, float]:
    times = tally.first_byte_seconds
    return quantile(times, 0.5) * 1e6, quantile(times, 0.99) * 1e6


def _steady(name: str, port: int) -> Tally:
    load = Load(port, requests(stream=False))
    _run(name, load.steady(WARM_UP, PER_SECOND, CONNECTIONS))
    return _run(name, load.steady(STEADY_REQUESTS, PER_SECOND, CONNECTIONS))


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
