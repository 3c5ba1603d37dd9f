"""GenTD26: 87 models that share GPUs; how long each stays hot and asleep, by `keepalive`."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apps.deployments.reconcile import keepalive
from apps.deployments.reconcile.keepalive import KeepAlive, Rung
from bench.scaling import traces

DAY = 86_400.0

type Arrivals = list[tuple[float, str]]


@dataclass(frozen=True)
class Shares:
    hot: float
    asleep: float
    mean_gpus: float
    mean_asleep: float


def load(path: Path) -> Arrivals:
    """Return `(seconds from the first, model)` of every request."""
    rows = traces.rows_of(path)
    found = sorted(
        (traces.seconds_of(r["gmt_create"]), r["checkpoint_model_version_id"]) for r in rows
    )
    return [(at - found[0][0], model) for at, model in found]


def keep_alive(arrivals: Arrivals, keep: KeepAlive, *, since: float, until: float) -> Shares:
    """Return what arrivals in `[since, until)` find, and what was held for it."""
    last: dict[str, tuple[float, float]] = {}
    hot = asleep = count = 0
    gpus = slept = 0.0
    for at, model in arrivals:
        before, recent = last.get(model, (None, 0.0))
        if before is not None and since <= at < until:
            idle = at - before
            found = keepalive.rung(keep, recent, idle)
            hot_time = keepalive.hot_seconds(keep, recent)
            hot += found is Rung.HOT
            asleep += found is Rung.ASLEEP
            gpus += min(idle, hot_time)
            slept += min(max(0.0, idle - hot_time), keep.asleep_seconds)
        count += since <= at < until
        gap = 0.0 if before is None else at - before
        last[model] = at, keepalive.requests_recently(recent, gap)
    span = until - since
    return Shares(hot / count, asleep / count, gpus / span, slept / span)


def least_recent(arrivals: Arrivals, slots: int) -> Shares:
    """Return the same for a fixed number of hot slots, the least recently used evicted."""
    held: OrderedDict[str, None] = OrderedDict()
    hot = 0
    for _, model in arrivals:
        hot += model in held
        held[model] = None
        held.move_to_end(model)
        if len(held) > slots:
            held.popitem(last=False)
    return Shares(hot / len(arrivals), 0.0, float(slots), 0.0)


def table(path: Path) -> list[tuple[str, Shares, Shares]]:
    """Return `(rule, whole trace, second half)` of each rule."""
    arrivals = load(path)
    end = arrivals[-1][0] + 1
    rules: list[tuple[str, KeepAlive]] = [
        ("hot 10 min, asleep 8 h, same for all", KeepAlive(learns=False)),
        ("hot 10 min by recent use, asleep 8 h", KeepAlive()),
    ]
    both: Callable[[Shares], tuple[Shares, Shares]] = lambda s: (s, s)  # noqa: E731
    rows = [(f"least recently used, {n} slots", *both(least_recent(arrivals, n))) for n in (4, 8)]
    return rows + [
        (
            name,
            keep_alive(arrivals, keep, since=0, until=end),
            keep_alive(arrivals, keep, since=end / 2, until=end),
        )
        for name, keep in rules
    ]
