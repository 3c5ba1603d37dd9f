"""The four charts of a page: titles, legends, the newest value for the first paint.

The lines themselves are drawn by `static/js/charts.js` under the same keys.
"""

from dataclasses import dataclass

from apps.dashboard import units
from apps.telemetry.numbers import Flow


@dataclass(frozen=True, kw_only=True)
class Chart:
    key: str
    title: str
    value: str
    unit: str
    aux: str = ""
    aux_value: str = ""
    legend: tuple[tuple[str, str, bool], ...] = ()
    """(hue, word, whether the line is dotted) of each line."""
    big: bool = False


def of_flow(flow: Flow, *, big: bool) -> list[Chart]:
    """Return the charts of what flows through a deployment or the fleet."""
    return [
        Chart(
            key="tps",
            title="Throughput",
            value=units.rate(flow.output_tokens_per_second),
            unit="tokens/s",
            aux="prompt",
            aux_value=units.rate(flow.prompt_tokens_per_second),
            big=big,
        ),
        Chart(
            key="in_flight",
            title="In flight",
            value=units.count(flow.in_flight),
            unit="requests",
            aux="queued",
            aux_value=units.count(flow.queued),
            legend=(("c2", "running", False), ("c3", "queued", False)),
            big=big,
        ),
        Chart(
            key="ttft",
            title="Time to first token",
            value=units.seconds(flow.ttft_p95_seconds),
            unit="p95",
            aux="p50",
            aux_value=units.seconds(flow.ttft_p50_seconds),
            legend=(("c4", "p95", False), ("c4", "p50", True)),
            big=big,
        ),
        Chart(
            key="hits",
            title="Prefix cache hits",
            value=units.percent(flow.prefix_cache_hit_ratio),
            unit="of prompt tokens",
            big=big,
        ),
    ]
