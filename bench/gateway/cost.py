"""What a request costs the gateway in CPU, beside its peers, in many short rounds of all in turn.

CPU is of the measured process alone, all threads, from the scheduler's own account, so the load
generator and the engines on the same machine do not count. What a request costs moves by half with
the neighbours of the machine, within seconds. So all programs are up at once, a round gives each
the same few requests, in an order that turns round by round, and the share of the base is taken
within each round: what comes from outside falls on both. Called by `bench.gateway.__main__`.
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
    PROMPT_BYTES,
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
ROUNDS = 24
OTHERS_EVERY = 6
"""Only in every so many rounds are those measured that no target is about."""

PLAIN_REQUESTS = 1500
STREAM_REQUESTS = 150
SLOW_DIVISOR = 10
"""A slow program gets so many times fewer in a round."""


class _Meter:
    """One program, and what it cost in each round."""

    def __init__(self, program: Program, *, stream: bool) -> None:
        self.program = program
        self.costs: dict[int, float] = {}
        """Microseconds a request, by round."""
        self._load = Load(program.port, requests(stream=stream))
        self._count = STREAM_REQUESTS if stream else PLAIN_REQUESTS
        if program.name in SLOW:
            self._count //= SLOW_DIVISOR
        self._sent = 0

    @property
    def is_peer(self) -> bool:
        return self.program.usage_log is None

    def measure(self, number: int) -> None:
        """Send the requests of round `number`, if it is one of this program's."""
        is_held_to_a_target = self.program.name in (GATEWAY, BASE)
        if number > 0 and number % OTHERS_EVERY and not is_held_to_a_target:
            return
        before = self.program.cpu_seconds()
        tally = run(self.program.name, self._load.closed_loop(self._count, CONNECTIONS))
        self._sent += self._count
        check(self.program, tally, self._sent)
        # With the last usage records: `check` has seen all of them written.
        spent = self.program.cpu_seconds() - before
        if number >= 0:
            self.costs[number] = spent / self._count * 1e6

    def shares(self, base: "_Meter") -> list[float]:
        """Return the share of `base` in each round that both were in."""
        return [cost / base.costs[at] for at, cost in self.costs.items() if at in base.costs]


def cpu(folder: Path, peers: Peers = PEERS) -> Result:
    """CPU per plain and per streamed request, beside the peers'."""
    result = Result(part="cpu", question="what does a request cost the gateway?")
    name = f"CPU per request, {PROMPT_BYTES // 1024} kB prompt"
    _compare(folder, result, peers, name, stream=False, at_most=0.75)
    name = f"CPU per streamed request of {STREAM_CHUNKS} chunks"
    _compare(folder, result, peers, name, stream=True, at_most=0.80)
    heads = (
        "program",
        "kind",
        "us per request",
        f"share of {BASE}",
        "half of the rounds",
        "rounds",
    )
    result.table.insert(0, heads)
    return result


def _compare(
    folder: Path, result: Result, peers: Peers, name: str, *, stream: bool, at_most: float
) -> None:
    """Measure all programs and add what was found; the share of the base is held to `at_most`."""
    with programs.engines(STREAM_CHUNKS, STREAM_STEP_MS) as ports, contextlib.ExitStack() as up:
        started = [up.enter_context(start) for start in subjects(folder, ports, peers)]
        meters = [_Meter(program, stream=stream) for program in started if program is not None]
        meters = in_rounds(meters, ROUNDS)
    found = {meter.program.name: meter for meter in meters}
    base = found.get(BASE)
    if base is None:
        print(f"  {BASE}: peer not measured (is its environment at {programs.PEERS}?)")
    result.add(name, statistics.median(found[GATEWAY].costs.values()), "us")
    if base is not None:
        share = statistics.median(found[GATEWAY].shares(base))
        result.add(f"  the same as a share of {BASE}", share, "", at_most=at_most)
    kind = "streamed" if stream else "plain"
    result.table += [_row(meter, kind, base) for meter in meters]


def _row(meter: _Meter, kind: str, base: _Meter | None) -> tuple[str, ...]:
    cost = f"{statistics.median(meter.costs.values()):.0f}"
    shares = meter.shares(base) if base is not None else []
    columns = ("", "")
    if shares:
        columns = (
            f"{statistics.median(shares):.2f}",
            f"{quantile(shares, 0.25):.2f} to {quantile(shares, 0.75):.2f}",
        )
    return meter.program.name, kind, cost, *columns, str(len(meter.costs))
