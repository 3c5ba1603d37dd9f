"""Counters and histograms of deployments and replicas.

Plain integers on the hot path; `gateway.metrics` and `gateway.live` read them when asked. Called
by `gateway.exchange` and `gateway.relay`.
"""

import math
from dataclasses import dataclass, field

from gateway.shapes import Usage
from gateway.wire import GAP_BUCKETS_SECONDS, TTFT_BUCKETS_SECONDS, Counts


class Histogram:
    """Counts per bucket; the last bucket is for all above the bounds.

    Most values fall where the one before fell: such a run is one plain number, which goes to its
    bucket when another one's turn comes, or when somebody reads.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.total = 0.0
        """Sum of all values."""
        self._buckets = [0] * (len(bounds) + 1)
        self._place = 0
        """The bucket of the run."""
        self._above = self._up_to = -1.0
        """Its bounds."""
        self._run = 0
        """How many values it has so far."""

    @property
    def buckets(self) -> list[int]:
        """Counts per bucket, not cumulative."""
        self._end_run()
        return self._buckets

    def observe(self, seconds: float) -> None:
        """Count one value, 0 or more."""
        if not self._above < seconds <= self._up_to:
            self._begin_run(seconds)
        self._run += 1
        self.total += seconds

    def _begin_run(self, seconds: float) -> None:
        self._end_run()
        bounds = self.bounds
        place = self._place = _place(bounds, seconds)
        self._above = bounds[place - 1] if place > 0 else -1.0
        self._up_to = bounds[place] if place < len(bounds) else math.inf

    def _end_run(self) -> None:
        self._buckets[self._place] += self._run
        self._run = 0


def _place(bounds: tuple[float, ...], seconds: float) -> int:
    """Return the first place whose bound is not below `seconds` (bisect, compiled here)."""
    low, high = 0, len(bounds)
    while low < high:
        middle = (low + high) >> 1
        if bounds[middle] < seconds:
            low = middle + 1
        else:
            high = middle
    return low


# --- What engines count, whatever they call it ---------------------------------------------------


def prompt_of(usage: Usage) -> int:
    """Return the tokens of the prompt, cached ones included."""
    tokens = usage.prompt_tokens
    if tokens is None:
        tokens = usage.input_tokens
    if tokens is None:
        tokens = usage.total_tokens
    return tokens or 0


def output_of(usage: Usage) -> int:
    """Return the tokens generated."""
    return usage.completion_tokens or usage.output_tokens or 0


def cached_of(usage: Usage) -> int:
    """Return the prompt tokens that came from the prefix cache; -1 if the engine does not say."""
    details = usage.prompt_tokens_details or usage.input_tokens_details
    tokens = details.cached_tokens if details is not None else usage.cache_read_input_tokens
    return -1 if tokens is None else tokens


def reasoning_of(usage: Usage) -> int:
    """Return the output tokens spent on reasoning; -1 if the engine does not say."""
    details = usage.completion_tokens_details or usage.output_tokens_details
    tokens = details.reasoning_tokens if details is not None else None
    return -1 if tokens is None else tokens


def _ttft() -> Histogram:
    return Histogram(TTFT_BUCKETS_SECONDS)


def _gaps() -> Histogram:
    return Histogram(GAP_BUCKETS_SECONDS)


@dataclass(slots=True)
class Tally:
    """What one deployment or one replica has done since the gateway started, and does now."""

    in_flight: int = 0
    requests: int = 0
    failed: int = 0
    refused: int = 0
    retried: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft: Histogram = field(default_factory=_ttft)
    gaps: Histogram = field(default_factory=_gaps)

    def counts(self, queued: int = 0) -> Counts:
        """Return the numbers as they cross to the control plane."""
        return Counts(
            in_flight=self.in_flight,
            queued=queued,
            requests_total=self.requests,
            failed_total=self.failed,
            refused_total=self.refused,
            prompt_tokens_total=self.prompt_tokens,
            cached_tokens_total=self.cached_tokens,
            output_tokens_total=self.output_tokens,
            ttft_buckets=tuple(self.ttft.buckets),
            ttft_sum_seconds=self.ttft.total,
            gap_buckets=tuple(self.gaps.buckets),
            gap_sum_seconds=self.gaps.total,
        )
