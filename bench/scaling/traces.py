"""Read traces: any file of arrivals, or of arrival rates, becomes requests in seconds from 0.

Accepted: CSV with a header that names a time and, if it has them, prompt and output tokens (Azure's
2023 LLM traces, GenTD26, an export of Hearth's own usage), JSON lines with the same (Mooncake), and
CSV with `t_seconds,rate_rps` (ServeGen), for which arrivals are drawn.
"""

import csv
import json
import random
from datetime import UTC, datetime
from pathlib import Path

PREFILL_TOKENS_PER_SECOND = 20_480.0
SECONDS_PER_TOKEN = 0.020
DRAWN_PROMPT_TOKENS = 2_000
DRAWN_OUTPUT_TOKENS = 207
"""Means of what is drawn where a trace has rates only; exponential, so mean service is 4.2 s."""

_TIMES = ("timestamp", "at", "at_seconds", "admitted_at", "arrived_at", "time", "gmt_create")
_PROMPTS = ("contexttokens", "prompt_tokens", "input_length", "input_tokens", "prompt_length")
_OUTPUTS = ("generatedtokens", "output_tokens", "output_length", "completion_tokens")
_SERVICES = ("service_seconds", "exec_time_seconds")

type Requests = list[tuple[float, float, float]]


class Unreadable(Exception):
    """The trace is missing or has no column that could be a time."""


def load(path: Path, *, copies: int, rng: random.Random, seconds: float | None = None) -> Requests:
    """Return the requests of the trace, each `copies` times within a second of its time.

    `copies` of a file of rates scales nothing: its mean rate is given by `rate_rps`.
    """
    rows = rows_of(path)
    if not rows:
        raise Unreadable(f"{path}: no rows")
    columns = {name.lower(): name for name in rows[0]}
    made = [_request(row, columns) for row in rows]
    first = min(at for at, _, _ in made)
    found = [
        (at - first + (rng.random() if copies > 1 else rng.uniform(0, 0.2)), prefill, service)
        for at, prefill, service in made
        for _ in range(copies)
    ]
    found.sort()
    return found if seconds is None else [request for request in found if request[0] < seconds]


def from_rates(
    path: Path, model: str, *, mean_rps: float, day: int, rng: random.Random
) -> Requests:
    """Return a day of arrivals drawn at the trace's rates, scaled to a mean of `mean_rps`."""
    rates = rates_of(path, model, day)
    scale = mean_rps / (sum(rate for _, rate in rates) / len(rates))
    step = rates[1][0] - rates[0][0]
    found: Requests = []
    for start, rate in rates:
        at, per_second = start, rate * scale
        while per_second > 0:
            at += rng.expovariate(per_second)
            if at >= start + step:
                break
            prefill = rng.expovariate(1 / DRAWN_PROMPT_TOKENS) / PREFILL_TOKENS_PER_SECOND
            output = rng.expovariate(1 / DRAWN_OUTPUT_TOKENS) * SECONDS_PER_TOKEN
            found.append((at, prefill, prefill + output))
    return found


def rates_of(path: Path, model: str, day: int) -> list[tuple[float, float]]:
    """Return `(second of the day, requests a second)` of one day of a file of rates."""
    rows = [r for r in rows_of(path) if r["model"] == model]
    if not rows:
        raise Unreadable(f"{path}: no rows of {model}")
    start = day * 86_400.0
    return [
        (float(r["t_seconds"]) - start, float(r["rate_rps"]))
        for r in rows
        if start <= float(r["t_seconds"]) < start + 86_400
    ]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV or JSON-lines file."""
    if not path.is_file():
        raise Unreadable(f"{path}: there is no such trace")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _request(row: dict[str, str], columns: dict[str, str]) -> tuple[float, float, float]:
    time = next((columns[name] for name in _TIMES if name in columns), None)
    if time is None:
        raise Unreadable(f"no column of times; there are {', '.join(columns)}")
    at = seconds_of(row[time])
    if time == "timestamp" and isinstance(row[time], int):
        at /= 1000  # Mooncake counts milliseconds.
    prompt = _number(row, columns, _PROMPTS) or 0.0
    prefill = prompt / PREFILL_TOKENS_PER_SECOND
    measured = _number(row, columns, _SERVICES)
    if measured is not None:
        return at, prefill, measured
    return at, prefill, prefill + (_number(row, columns, _OUTPUTS) or 0.0) * SECONDS_PER_TOKEN


def _number(row: dict[str, str], columns: dict[str, str], names: tuple[str, ...]) -> float | None:
    for name in names:
        if name in columns and row[columns[name]] not in ("", None):
            return float(row[columns[name]])
    return None


def seconds_of(text: str | float) -> float:
    """Return a time as seconds: a number as it is, a date and time since the epoch."""
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(str(text).strip()[:26])
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
