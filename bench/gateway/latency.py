"""What the way through the gateway and its peers adds to the time to the first byte.

In many short rounds of all in turn, as `bench.gateway.cost` does and for its reasons; an engine
without anything before it is one of them, and what it takes is taken off within each round. Called
by `bench.gateway.__main__`.
"""

import contextlib
import statistics
from pathlib import Path

from bench.gateway import programs
from bench.gateway.load import Load
from bench.gateway.programs import Program
from bench.gateway.traffic import (
    BASE,
    CONNECTIONS,
    PEERS,
    SLOW,
    STREAM_CHUNKS,
    STREAM_STEP_MS,
    Peers,
    check,
    in_rounds,
    requests,
    run,
    subjects,
)
from bench.main.figures import Result, quantile

GATEWAY = "hearth"
ROUNDS = 12
PER_SECOND = 200.0
REQUESTS = 600
_QUANTILES = {"p50": 0.5, "p99": 0.99}


class _Clock:
    """One program, or the engine alone, and what its requests waited in each round."""

    def __init__(self, name: str, port: int, program: Program | None = None) -> None:
        self.name = name
        self.waits: list[tuple[float, ...]] = []
        """Microseconds to the first byte by round, one for each of `_QUANTILES`."""
        self._program = program
        self._load = Load(port, requests(stream=False))
        self._sent = 0

    @property
    def is_peer(self) -> bool:
        return self._program is not None and self._program.usage_log is None

    def measure(self, number: int) -> None:
        """Send the requests of round `number`."""
        tally = run(self.name, self._load.steady(REQUESTS, PER_SECOND, CONNECTIONS))
        self._sent += REQUESTS
        if self._program is not None:
            check(self._program, tally, self._sent)
        times = tally.first_byte_seconds
        if number >= 0:
            self.waits.append(tuple(quantile(times, share) * 1e6 for share in _QUANTILES.values()))

    def added(self, place: int, direct: "_Clock") -> list[float]:
        """Return by round what it adds to `direct` at one of `_QUANTILES`."""
        pairs = zip(self.waits, direct.waits, strict=True)
        return [ours[place] - engine[place] for ours, engine in pairs]


def latency(folder: Path, peers: Peers = PEERS) -> Result:
    """Latency added at the median and the 99th percentile, beside the peers'."""
    result = Result(part="latency", question=f"what is added at {PER_SECOND:.0f} requests/s?")
    peers = [peer for peer in peers if peer[0] not in SLOW]
    with programs.engines(STREAM_CHUNKS, STREAM_STEP_MS) as ports, contextlib.ExitStack() as up:
        started = [up.enter_context(start) for start in subjects(folder, ports, peers)]
        direct = _Clock("direct", ports[0])
        clocks = [_Clock(one.name, one.port, one) for one in started if one is not None]
        clocks = in_rounds([direct, *clocks], ROUNDS)[1:]
    found = {
        clock.name: [clock.added(at, direct) for at in range(len(_QUANTILES))] for clock in clocks
    }
    base = found.get(BASE)
    for place, name in enumerate(_QUANTILES):
        most = None if base is None else statistics.median(base[place])
        added = statistics.median(found[GATEWAY][place])
        result.add(f"added to the first byte, {name}", added, "us", at_most=most)
    heads = (f"{name} us" for name in _QUANTILES)
    halves = (f"half of the rounds, {name}" for name in _QUANTILES)
    result.table = [("program", *heads, *halves)]
    result.table += [(name, *_columns(added)) for name, added in found.items()]
    return result


def _columns(added: list[list[float]]) -> list[str]:
    medians = [f"{statistics.median(rounds):.0f}" for rounds in added]
    halves = [f"{quantile(rounds, 0.25):.0f} to {quantile(rounds, 0.75):.0f}" for rounds in added]
    return [*medians, *halves]
