"""The simulator's numbers under vLLM's metric names, in Prometheus' text format.

Counters and histograms are plain numbers, touched once a step or once a request; text is made
only when `/metrics` is read. Names, labels and buckets are those of vLLM 0.32, so whatever reads
a vLLM reads this. Called by `engine` (observations) and `api` (text).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from agents.simulator.core import Core, Limits, Step
from agents.simulator.runs import Run

_TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_GAP_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_REQUEST_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TOKEN_BUCKETS = tuple(float(m * 10**e) for e in range(5) for m in (1, 2, 5))
_STEP_TOKEN_BUCKETS = tuple(float(2**e) for e in (0, *range(3, 15)))

_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": _TTFT_BUCKETS,
    "vllm:inter_token_latency_seconds": _TOKEN_GAP_BUCKETS,
    "vllm:request_time_per_output_token_seconds": _TOKEN_GAP_BUCKETS,
    "vllm:e2e_request_latency_seconds": _REQUEST_BUCKETS,
    "vllm:request_queue_time_seconds": _REQUEST_BUCKETS,
    "vllm:request_prefill_time_seconds": _REQUEST_BUCKETS,
    "vllm:request_decode_time_seconds": _REQUEST_BUCKETS,
    "vllm:request_inference_time_seconds": _REQUEST_BUCKETS,
    "vllm:request_prompt_tokens": _TOKEN_BUCKETS,
    "vllm:request_generation_tokens": _TOKEN_BUCKETS,
    "vllm:request_prefill_kv_computed_tokens": _TOKEN_BUCKETS,
    "vllm:iteration_tokens_total": _STEP_TOKEN_BUCKETS,
}
_FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts by bucket; `le` bounds are inclusive."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {total}.0'
        yield f"{name}_count{{{labels}}} {total}.0"
        yield f"{name}_sum{{{labels}}} {self._sum!r}"


class Meters:
    """What one engine counts since its start."""

    def __init__(
        self, model_name: str, limits: Limits, *, started_at: float, generates: bool = True
    ) -> None:
        """`started_at`: Unix time, shown as `_created`; `generates`: False for pooling models,
        whose runs end at their first token and give no output."""
        self._generates = generates
        self._model_label = f'model_name="{_escape(model_name)}"'
        self._labels = f'engine="0",{self._model_label}'
        self._limits = limits
        self._started_at = started_at
        self._histograms = {name: Histogram(bounds) for name, bounds in _HISTOGRAMS.items()}
        self._gaps = self._histograms["vllm:inter_token_latency_seconds"]
        self._finished: Counter[str] = Counter()
        self.refused = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.host_tokens = 0
        self.sleep_state = "awake"

    @property
    def finished(self) -> int:
        """Requests that ended in any way."""
        return self._finished.total()

    def saw_step(self, step: Step) -> None:
        gaps = self._gaps
        for run in step.runs:
            if run.produced > 1:
                gaps.observe(run.gap_seconds)
            else:
                self._saw_first_token(run, step.at)
        self.output_tokens += len(step.runs) if self._generates else 0
        batch = self._histograms["vllm:iteration_tokens_total"]
        batch.observe(len(step.runs) + step.prefill_tokens)

    def saw_end(self, run: Run) -> None:
        """Count a run that has its outcome."""
        self._finished[str(run.outcome)] += 1
        for name, value in _phases(run):
            self._histograms[name].observe(value)

    def saw_error(self) -> None:
        self._finished["error"] += 1

    def _saw_first_token(self, run: Run, at: float) -> None:
        self._histograms["vllm:time_to_first_token_seconds"].observe(at - run.arrived_at)
        self.prompt_tokens += run.prompt_tokens
        self.cached_tokens += run.cached_tokens
        self.host_tokens += run.host_tokens

    # --- Text ---------------------------------------------------------------------------------

    def text(self, core: Core) -> str:
        """Return everything in Prometheus' text format 0.0.4."""
        lines = [*self._gauges(core), *self._counters(core)]
        for name, histogram in self._histograms.items():
            lines += _head(name, "histogram")
            lines += histogram.lines(name, self._labels)
        return "\n".join(lines) + "\n"

    def _gauges(self, core: Core) -> Iterator[str]:
        yield from self._gauge("vllm:num_requests_running", core.running)
        yield from self._gauge("vllm:num_requests_waiting", core.waiting)
        name = "vllm:num_requests_waiting_by_reason"
        yield from self._by_label(
            name, "gauge", "reason", {"capacity": core.waiting, "deferred": 0}
        )
        yield from self._gauge("vllm:kv_cache_usage_perc", core.pool.usage_ratio)
        states = ("awake", "weights_offloaded", "discard_all")
        values = {state: int(state == self.sleep_state) for state in states}
        yield from self._by_label("vllm:engine_sleep_state", "gauge", "sleep_state", values)
        yield from _head("vllm:cache_config_info", "gauge")
        yield f"vllm:cache_config_info{{{self._cache_labels()}}} 1.0"

    def _counters(self, core: Core) -> Iterator[str]:
        yield from self._counter("vllm:num_preemptions", core.preemptions)
        yield from self._counter("vllm:prompt_tokens", self.prompt_tokens)
        yield from self._counter("vllm:generation_tokens", self.output_tokens)
        yield from self._counter("vllm:prefix_cache_queries", self.prompt_tokens)
        yield from self._counter("vllm:prefix_cache_hits", self.cached_tokens - self.host_tokens)
        yield from self._counter("vllm:external_prefix_cache_queries", self._external_queries())
        yield from self._counter("vllm:external_prefix_cache_hits", self.host_tokens)
        yield from self._counter("vllm:prompt_tokens_cached", self.cached_tokens)
        yield from self._by_label(
            "vllm:prompt_tokens_by_source_total", "counter", "source", self._sources()
        )
        tiers = {"device": self.cached_tokens - self.host_tokens, "host": self.host_tokens}
        yield from self._by_label(
            "vllm:prompt_tokens_cached_by_source_total", "counter", "source", tiers
        )
        ends = {reason: self._finished[reason] for reason in _FINISH_REASONS}
        yield from self._by_label("vllm:request_success_total", "counter", "finished_reason", ends)
        # The one series without an `engine`: vLLM refuses before it chooses one.
        yield from _head("vllm:admission_rejections_total", "counter")
        labels = f'{self._model_label},reason="max_num_queued_reqs"'
        yield f"vllm:admission_rejections_total{{{labels}}} {float(self.refused)}"

    def _external_queries(self) -> int:
        device = self.cached_tokens - self.host_tokens
        return self.prompt_tokens - device if self._limits.host_cache_tokens else 0

    def _sources(self) -> dict[str, int]:
        return {
            "local_compute": self.prompt_tokens - self.cached_tokens,
            "local_cache_hit": self.cached_tokens - self.host_tokens,
            "external_kv_transfer": self.host_tokens,
        }

    def _cache_labels(self) -> str:
        blocks, size = self._limits.device_blocks, self._limits.block_tokens
        values = {
            "block_size": size,
            "cache_dtype": "auto",
            "enable_prefix_caching": "True",
            "engine": "0",
            "kv_cache_size_tokens": blocks * size,
            "num_gpu_blocks": blocks,
        }
        return ",".join(f'{name}="{value}"' for name, value in values.items())

    def _gauge(self, name: str, value: float) -> Iterator[str]:
        yield from _head(name, "gauge")
        yield f"{name}{{{self._labels}}} {float(value)}"

    def _counter(self, name: str, value: float) -> Iterator[str]:
        yield from _head(f"{name}_total", "counter")
        yield f"{name}_total{{{self._labels}}} {float(value)}"
        yield from _head(f"{name}_created", "gauge")
        yield f"{name}_created{{{self._labels}}} {self._started_at}"

    def _by_label(self, name: str, kind: str, label: str, values: dict[str, int]) -> Iterator[str]:
        yield from _head(name, kind)
        for key, value in values.items():
            yield f'{name}{{{self._labels},{label}="{key}"}} {float(value)}'


def _phases(run: Run) -> Iterable[tuple[str, float]]:
    """Return the observations of a finished run, as far as it came."""
    if run.first_token_at is None or run.scheduled_at is None or run.finished_at is None:
        return
    decode = run.finished_at - run.first_token_at
    yield "vllm:e2e_request_latency_seconds", run.finished_at - run.arrived_at
    yield "vllm:request_queue_time_seconds", run.scheduled_at - run.arrived_at
    yield "vllm:request_prefill_time_seconds", run.first_token_at - run.scheduled_at
    yield "vllm:request_decode_time_seconds", decode
    yield "vllm:request_inference_time_seconds", run.finished_at - run.scheduled_at
    yield "vllm:request_prompt_tokens", run.prompt_tokens
    yield "vllm:request_generation_tokens", run.produced
    yield "vllm:request_prefill_kv_computed_tokens", run.prompt_tokens - run.cached_tokens
    if run.produced > 1:
        yield "vllm:request_time_per_output_token_seconds", decode / (run.produced - 1)


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {name} Simulated: as vLLM's metric of this name.", f"# TYPE {name} {kind}"]


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
