"""Counters and histograms of deployments and replicas, and the usage in engines' answers.

Plain integers on the hot path; `gateway.metrics` and `gateway.live` read them when asked. Called
by `gateway.exchange` and `gateway.relay`.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

import msgspec

from gateway.wire import GAP_BUCKETS_SECONDS, TTFT_BUCKETS_SECONDS, Counts


@dataclass(slots=True)
class Histogram:
    """Counts per bucket, not cumulative; the last bucket is for all above the bounds."""

    bounds: tuple[float, ...]
    buckets: list[int]
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.buckets[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


def _ttft() -> Histogram:
    return Histogram(TTFT_BUCKETS_SECONDS, [0] * (len(TTFT_BUCKETS_SECONDS) + 1))


def _gaps() -> Histogram:
    return Histogram(GAP_BUCKETS_SECONDS, [0] * (len(GAP_BUCKETS_SECONDS) + 1))


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


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts of one answer, under OpenAI's, its Responses' and Anthropic's names."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    input_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cache_read_input_tokens: int | None = None

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, cached ones included."""
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        return self.input_tokens if self.input_tokens is not None else self.total_tokens or 0

    @property
    def output(self) -> int:
        """Tokens generated."""
        return self.completion_tokens or self.output_tokens or 0

    @property
    def cached(self) -> int | None:
        """Prompt tokens that came from the prefix cache; None if the engine does not say."""
        details = self.prompt_tokens_details or self.input_tokens_details
        if details is not None:
            return details.cached_tokens
        return self.cache_read_input_tokens

    @property
    def reasoning(self) -> int | None:
        """Output tokens spent on reasoning; None if the engine does not say."""
        details = self.completion_tokens_details or self.output_tokens_details
        return details.reasoning_tokens if details is not None else None
