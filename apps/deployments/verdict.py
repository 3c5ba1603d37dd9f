"""Whether a candidate revision is as good as the live one: the statistics of a canary. Pure.

Evidence is one sample a request, as the gateways recorded it: failed or not, time to first token
(without the wait in the gateway's queue), mean time between tokens, cost per token. Requests are
the unit, as gaps within one request depend on each other. Values are kept as counts in bins of 5 %
so that any number of requests is a few hundred integers.

* Times and cost: one-sided Mann-Whitney U test (Mann and Whitney, Ann. Math. Stat. 18, 1947) with
  mid-ranks, tie and continuity correction. The candidate's values are first divided by the limit
  (`max_ttft_ratio` ...), so what is tested is not "slower" but "slower than is tolerated". Latency
  is skewed and heavy-tailed; a rank test needs no assumption about its shape. Kayenta, the canary
  judge of Netflix and Google, uses the same test.
* Failures: one-sided Fisher's exact test (Fisher, 1922), and more than the tolerated increase.

The evidence is looked at three times, at 1/4, 1/2 and all of `min_requests`, four measures each:
by Bonferroni each test has 5 % / 12, so a candidate that is as good fails in at most one of twenty
rollouts. Only the last look can pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import erfc, exp, lgamma, log, sqrt
from typing import Any

from apps.deployments.rollout_policy import CanaryPolicy

BIN_RATIO = 1.05
LOOK_RATIOS = (0.25, 0.5, 1.0)
MEASURES = ("errors", "ttft", "itl", "cost")
ERROR_RATE = 0.05
"""How often a candidate that is as good may be called worse, over all looks and measures."""
ALPHA = ERROR_RATE / (len(LOOK_RATIOS) * len(MEASURES))
LEAST_VALUES = 8
"""Fewer values than this on either side say nothing (embeddings have no time between tokens)."""

type Bins = Mapping[int, int]


def bin_of(value: float) -> int:
    """Return the bin of a positive value; its bounds lie 5 % apart."""
    return round(log(value) / log(BIN_RATIO))


def value_of(number: int) -> float:
    """Return the middle of a bin."""
    return float(BIN_RATIO**number)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The evidence of one revision."""

    requests: int = 0
    failed: int = 0
    ttft: Bins = field(default_factory=dict)
    itl: Bins = field(default_factory=dict)
    cost: Bins = field(default_factory=dict)

    @staticmethod
    def read(stored: Mapping[str, Any]) -> "Tally":
        """Return a tally from its JSON."""
        bins = {
            name: {int(number): count for number, count in stored.get(name, {}).items()}
            for name in ("ttft", "itl", "cost")
        }
        return Tally(requests=stored.get("requests", 0), failed=stored.get("failed", 0), **bins)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One comparison. `live` and `candidate`: failed ratio, or median in seconds or USD."""

    name: str
    live: float | None
    candidate: float | None
    live_samples: int
    candidate_samples: int
    limit: float
    """Tolerated ratio candidate / live; for errors the tolerated increase."""
    p_value: float | None
    """Of the candidate being no worse than tolerated; None with too few values."""
    is_worse: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one look at the evidence says."""

    look: int
    """1 to 3."""
    is_last: bool
    measures: tuple[Measure, ...]

    @property
    def is_worse(self) -> bool:
        return any(measure.is_worse for measure in self.measures)

    @property
    def has_passed(self) -> bool:
        return self.is_last and not self.is_worse

    @property
    def says(self) -> str:
        """One sentence with the numbers."""
        worse = [measure for measure in self.measures if measure.is_worse]
        if worse:
            return "; ".join(_words(measure) for measure in worse)
        samples = self.measures[0]
        return (
            f"no worse than live after {samples.candidate_samples} requests "
            f"(live: {samples.live_samples})"
        )


def due_look(live: Tally, candidate: Tally, looks_done: int, policy: CanaryPolicy) -> int:
    """Return the number of the look that can be had now (1 to 3), 0 if none yet."""
    fewer = min(candidate.requests, live.requests)
    reached = [
        number
        for number, ratio in enumerate(LOOK_RATIOS, 1)
        if fewer >= policy.min_requests * ratio
    ]
    return reached[-1] if reached and reached[-1] > looks_done else 0


def judge(live: Tally, candidate: Tally, look: int, policy: CanaryPolicy) -> Verdict:
    """Compare the two."""
    return Verdict(
        look=look,
        is_last=look == len(LOOK_RATIOS),
        measures=(
            _errors(live, candidate, policy.max_error_increase_ratio),
            _times("ttft", live.ttft, candidate.ttft, policy.max_ttft_ratio),
            _times("itl", live.itl, candidate.itl, policy.max_itl_ratio),
            _times("cost", live.cost, candidate.cost, policy.max_cost_ratio),
        ),
    )


def _errors(live: Tally, candidate: Tally, limit: float) -> Measure:
    live_ratio = live.failed / live.requests if live.requests else 0.0
    ratio = candidate.failed / candidate.requests if candidate.requests else 0.0
    p_value = fisher_p(live.failed, live.requests, candidate.failed, candidate.requests)
    return Measure(
        name="errors",
        live=live_ratio,
        candidate=ratio,
        live_samples=live.requests,
        candidate_samples=candidate.requests,
        limit=limit,
        p_value=p_value,
        is_worse=p_value < ALPHA and ratio > live_ratio + limit,
    )


def _times(name: str, live: Bins, candidate: Bins, limit: float) -> Measure:
    live_count, count = sum(live.values()), sum(candidate.values())
    is_enough = min(live_count, count) >= LEAST_VALUES
    shift = round(log(limit) / log(BIN_RATIO))
    shifted = {number - shift: many for number, many in candidate.items()}
    p_value = mann_whitney_p(live, shifted) if is_enough else None
    return Measure(
        name=name,
        live=median(live),
        candidate=median(candidate),
        live_samples=live_count,
        candidate_samples=count,
        limit=limit,
        p_value=p_value,
        is_worse=p_value is not None and p_value < ALPHA,
    )


def mann_whitney_p(live: Bins, candidate: Bins) -> float:
    """Return how likely values of `candidate` rank so high if they come from what `live` does.

    One-sided, normal approximation, with mid-ranks for what falls into one bin.
    """
    n, m = sum(live.values()), sum(candidate.values())
    total, below, u, ties = n + m, 0, 0.0, 0.0
    for number in sorted({*live, *candidate}):
        here, ours = live.get(number, 0), candidate.get(number, 0)
        u += ours * (below + here / 2)
        below += here
        ties += (here + ours) ** 3 - (here + ours)
    variance = n * m / 12 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    return 0.5 * erfc((u - n * m / 2 - 0.5) / sqrt(2 * variance))


def fisher_p(live_failed: int, live: int, failed: int, requests: int) -> float:
    """Return how likely at least `failed` of `requests` fail if both sides fail alike."""
    all_failed, total = live_failed + failed, live + requests
    most = min(all_failed, requests)
    whole = _log_choose(total, requests)
    return min(
        1.0,
        sum(
            exp(_log_choose(all_failed, k) + _log_choose(total - all_failed, requests - k) - whole)
            for k in range(failed, most + 1)
            if requests - k <= total - all_failed
        ),
    )


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def median(bins: Bins) -> float | None:
    """Return the median of binned values, to 2.5 %; None if there are none."""
    half, seen = (sum(bins.values()) + 1) / 2, 0
    for number in sorted(bins):
        seen += bins[number]
        if seen >= half:
            return value_of(number)
    return None


_SAID = {"errors": "failed requests", "ttft": "time to first token", "itl": "time between tokens"}


def _words(measure: Measure) -> str:
    name = _SAID.get(measure.name, "cost per token")
    before, now = measure.live or 0.0, measure.candidate or 0.0
    if measure.name == "errors":
        change = f"{now:.1%} against {before:.1%}"
    else:
        times = now / before if before else 0.0
        change = f"{times:.2f} times live's, {measure.limit:g} are tolerated"
    p_value = 1.0 if measure.p_value is None else measure.p_value
    return (
        f"{name}: {change} (p = {p_value:.2g}, {measure.candidate_samples} requests "
        f"against {measure.live_samples})"
    )
