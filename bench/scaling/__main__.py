"""`make bench-scaling`: every case, every policy, five seeds; baselines first, lost cells too.

Prints a Markdown table and draws `docs/images/scaling-*.svg`. Constants of the rule `hearth` were
fitted on the first half of each trace (of ServeGen: on the first half of a day); `held out` is the
second half (ServeGen: the day after), each from the same number of first replicas.

`--case live` is no replay: it times a real step of demand through a whole Hearth (`live`).
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path

from bench.autoscale import POLICIES, figures, half, replay
from bench.scaling import draw, live, pool
from bench.scaling.cases import CASES, TRACES, Case

SEEDS = (1, 2, 3, 4, 5)
HELD_DAY_SEEDS = 2
"""Seeds of the day held out: a day takes ten seconds a replay."""
IMAGES = Path("docs/images")
LIVE = "live"

type Job = tuple[str, str, int, str]
type Cell = dict[str, float]


def one(job: Job) -> tuple[Job, Cell]:
    """Run one cell."""
    key, policy, seed, part = job
    case = next(c for c in CASES if c.key == key)
    requests = case.load(seed, part)
    if not case.rates_of:
        requests = half(requests, part)
    outcome = replay(requests, policy, case.world, seconds=requests[-1][0] + 1)
    return job, figures(outcome)


def span(cells: Sequence[Cell], name: str, form: str, scale: float = 1.0) -> str:
    """Return the range of a figure over the seeds."""
    values = sorted(cell[name] * scale for cell in cells)
    low, high = format(values[0], form), format(values[-1], form)
    return low if low == high else f"{low} to {high}"


def _is_day(case: Case, part: str) -> bool:
    return bool(case.rates_of) and part == "second"


def show(case: Case, policies: Sequence[str], found: dict[tuple[str, str], list[Cell]]) -> None:
    """Print the table of one case."""
    print(f"\n**{case.title}** (reach: {case.reach})\n")
    print("| policy | TTFT > 2 s % | GPU-h | peak | starts | held out: % | GPU-h |")
    print("|---|---|---|---|---|---|---|")
    for policy in policies:
        whole, held = found[policy, "whole"], found[policy, "second"]
        print(
            f"| {policy} | {span(whole, 'late_ratio', '.2f', 100)} "
            f"| {span(whole, 'gpu_hours', '.1f')} | {span(whole, 'peak_replicas', '.0f')} "
            f"| {span(whole, 'starts', '.0f')} | {span(held, 'late_ratio', '.2f', 100)} "
            f"| {span(held, 'gpu_hours', '.1f')} |",
            flush=True,
        )


def show_pool() -> None:
    """Print GenTD26's table."""
    print(
        "\n**GenTD26, 87 models, 23 days** (reach: hot + asleep ≥ 97 %, hot ≥ 85 %, ≤ 2.4 GPUs)\n"
    )
    print("| rule | hot % | hot + asleep % | mean GPUs | mean asleep | held out: hot % | GPUs |")
    print("|---|---|---|---|---|---|---|")
    for name, whole, held in pool.table(TRACES / "gentd26_lora_request_trace.csv"):
        print(
            f"| {name} | {whole.hot:.1%} | {whole.hot + whole.asleep:.1%} | {whole.mean_gpus:.2f} "
            f"| {whole.mean_asleep:.1f} | {held.hot:.1%} | {held.mean_gpus:.2f} |"
        )


def time_live() -> int:
    """Print how soon demand is decided and ordered; return 1 if a target was missed."""
    with tempfile.TemporaryDirectory(prefix="hearth-step-") as folder:
        result = live.measure(Path(folder))
    print(result.text())
    return int(any(figure.is_met is False for figure in result.figures))


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=[*(c.key for c in CASES), LIVE])
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="this one alone")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    if asked.case == [LIVE]:
        return time_live()
    if not TRACES.is_dir():
        print(f"bench-scaling: no traces in {TRACES}; set HEARTH_TRACES", file=sys.stderr)
        return 2
    cases = [c for c in CASES if not asked.case or c.key in asked.case]
    policies = asked.policy or list(POLICIES)
    began = time.monotonic()
    jobs: list[Job] = [
        (case.key, policy, seed, part)
        for case in cases
        for policy in policies
        for part in ("whole", "second")
        for seed in SEEDS[: min(asked.seeds, HELD_DAY_SEEDS if _is_day(case, part) else 5)]
    ]
    found: dict[str, dict[tuple[str, str], list[Cell]]] = defaultdict(lambda: defaultdict(list))
    with Pool(asked.processes) as workers:
        for (key, policy, _, part), cell in workers.imap_unordered(one, jobs):
            found[key][policy, part].append(cell)
    for case in cases:
        show(case, policies, found[case.key])
    if not asked.case:
        show_pool()
    draw.charts(cases, IMAGES)
    print(f"\n{len(jobs)} replays of {asked.seeds} seeds in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
