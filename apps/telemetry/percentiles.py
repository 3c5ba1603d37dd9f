"""Percentiles of histograms with fixed bounds, pure.

A histogram is counts per bucket, not cumulative, one more bucket than bounds: the last counts what
lies above the last bound. Histograms of several sources or spans merge by addition; percentiles
themselves never do, so they are computed last. Called by `numbers` and `queries`.
"""

from collections.abc import Sequence


def add(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    """Return the merged histogram; an empty one counts as all zero."""
    if not a or not b:
        return tuple(a or b)
    return tuple(x + y for x, y in zip(a, b, strict=True))


def subtract(new: Sequence[int], old: Sequence[int]) -> tuple[int, ...]:
    """Return what `new` counted since `old`. An empty `old` counts as all zero."""
    if not old:
        return tuple(new)
    return tuple(max(0, x - y) for x, y in zip(new, old, strict=True))


def percentile(buckets: Sequence[int], bounds: Sequence[float], ratio: float) -> float | None:
    """Return the value below which `ratio` (0 to 1) of what was counted lies; None without counts.

    Linear within a bucket, from 0 in the first, as Prometheus' `histogram_quantile`. A value in
    the open last bucket is given as the last bound: the true one is at least that.
    """
    total = sum(buckets)
    if not total:
        return None
    wanted = ratio * total
    below, lower = 0, 0.0
    for count, upper in zip(buckets, bounds, strict=False):
        if count and below + count >= wanted:
            return lower + (upper - lower) * max(0.0, wanted - below) / count
        below, lower = below + count, upper
    return bounds[-1]
