"""The cases of the scaling benchmark: a trace, a world, and what the issue wants reached."""

import os
import random
from dataclasses import dataclass
from pathlib import Path

from bench.autoscale import World
from bench.scaling import traces
from bench.scaling.traces import Requests

TRACES = Path(os.environ.get("HEARTH_TRACES", "../shared/traces"))


@dataclass(frozen=True, kw_only=True)
class Case:
    key: str
    title: str
    file: str
    world: World
    reach: str
    copies: int = 1
    rates_of: str = ""
    mean_rps: float = 8.0

    def load(self, seed: int, half: str) -> Requests:
        """Return the requests of `half`: `whole`, `first` (fitted on) or `second` (held out)."""
        rng = random.Random(seed)
        if self.rates_of:
            # A day is fitted on, the day after is held out.
            day = 1 if half == "second" else 0
            return traces.from_rates(
                TRACES / self.file, self.rates_of, mean_rps=self.mean_rps, day=day, rng=rng
            )
        return traces.load(TRACES / self.file, copies=self.copies, rng=rng)


CASES = (
    Case(
        key="code-60",
        title="Azure code x8, 60 s start, 8 replicas first",
        file="azure2023_code.csv",
        copies=8,
        world=World(start_seconds=60, first_replicas=8),
        reach="≤ 3.3 % at ≤ 16.2 GPU-h, peak ≤ 32",
    ),
    Case(
        key="code-3",
        title="Azure code x8, 3 s start (asleep), 8 replicas first",
        file="azure2023_code.csv",
        copies=8,
        world=World(start_seconds=3, first_replicas=8),
        reach="≤ 0.5 % at ≤ 16 GPU-h",
    ),
    Case(
        key="m-large",
        title="ServeGen m-large day, 90 s start, 4 replicas first",
        file="servegen_rate_curves.csv",
        rates_of="data/language/m-large",
        world=World(start_seconds=90, first_replicas=4),
        reach="≤ 0.25 % at ≤ 95 GPU-h, ≤ 60 starts",
    ),
    Case(
        key="conv-120",
        title="Azure conv x6, 120 s start, from 9 replicas",
        file="azure2023_conv.csv",
        copies=6,
        world=World(start_seconds=120, first_replicas=9),
        reach="≤ 3.5 % at ≤ 15 GPU-h, peak ≤ 20",
    ),
)
