"""Usage: requests, tokens and cost by deployment, key, model or time; a table, bars and CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from apps.dashboard import shell
from apps.lib import clock
from apps.traffic import usage
from apps.traffic.usage import Group, UsageFilter

RANGES = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
GROUPS = {
    Group.DEPLOYMENT: "Deployment",
    Group.KEY: "API key",
    Group.MODEL: "Model name",
    Group.HOST: "Host",
    Group.OUTCOME: "Outcome",
    Group.DAY: "Day",
}
MOST_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Row:
    """Sums of one group."""

    label: str
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    usd: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Tokens of one hour or day as three stacked pieces; lengths are percent of the chart."""

    at: datetime
    row: Row
    x: float
    width: float
    fresh: float
    cached: float
    output: float

    @property
    def output_y(self) -> float:
        return 100 - self.output

    @property
    def fresh_y(self) -> float:
        return self.output_y - self.fresh

    @property
    def cached_y(self) -> float:
        return self.fresh_y - self.cached


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the usage of the range `range`, grouped by `by`."""
    now = clock.now()
    span = request.GET.get("range", "7d")
    span = span if span in RANGES else "7d"
    by = request.GET.get("by", "")
    group = Group(by) if by in {group.value for group in GROUPS} else Group.DEPLOYMENT
    which = UsageFilter(since=now - RANGES[span])
    rows = _rows(group, which)
    step = Group.HOUR if span == "24h" else Group.DAY
    context = {
        "rows": sorted(rows, key=lambda row: -row.usd)[:MOST_ROWS] if group != Group.DAY else rows,
        "total": _total(rows),
        "bars": _bars(step, which, now),
        "by_hour": step is Group.HOUR,
        "group": group,
        "groups": GROUPS,
        "range": span,
        "ranges": RANGES,
        "csv": urlencode({"format": "csv", "group_by": group, "from": which.since.isoformat()}),
    }
    return shell.page(request, "usage", context, title="Usage")


def _rows(group: Group, which: UsageFilter) -> list[Row]:
    found = usage.grouped(group, which)
    ids = [one["value"] for one in found if one["value"] is not None]
    names = usage.key_names(ids) if group is Group.KEY else {}
    return [_row(one, _label(one["value"], names)) for one in found]


def _label(value: Any, names: dict[Any, str]) -> str:  # noqa: ANN401 - text, id or time of a group
    if isinstance(value, datetime):
        return value.strftime("%d %b %Y")
    return names.get(value) or str(value or "") or "none"


def _row(one: dict[str, Any], label: str) -> Row:
    return Row(
        label=label,
        requests=one["requests"],
        failed=one["failed"],
        prompt_tokens=one["prompt"],
        cached_tokens=one["cached"],
        output_tokens=one["output"],
        usd=float(one["usd"]),
    )


def _total(rows: Sequence[Row]) -> Row:
    return Row(
        label="Total",
        requests=sum(row.requests for row in rows),
        failed=sum(row.failed for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        usd=sum(row.usd for row in rows),
    )


def _bars(step: Group, which: UsageFilter, now: datetime) -> list[Bar]:
    """Return one bar for each hour or day of the range, also for those without requests."""
    found = {one["value"]: _row(one, "") for one in usage.grouped(step, which)}
    starts = _starts(step, which.since, now)
    rows = [found.get(at) or _total([]) for at in starts]
    top = max((row.prompt_tokens + row.output_tokens for row in rows), default=0) or 1
    width = 100 / len(starts)
    return [
        Bar(
            at=at,
            row=row,
            x=round(place * width + width * 0.1, 3),
            width=round(width * 0.8, 3),
            fresh=round((row.prompt_tokens - row.cached_tokens) / top * 100, 2),
            cached=round(row.cached_tokens / top * 100, 2),
            output=round(row.output_tokens / top * 100, 2),
        )
        for place, (at, row) in enumerate(zip(starts, rows, strict=True))
    ]


def _starts(step: Group, since: datetime, now: datetime) -> list[datetime]:
    hourly = step is Group.HOUR
    width = timedelta(hours=1) if hourly else timedelta(days=1)
    at = since.replace(minute=0, second=0, microsecond=0)
    at = at if hourly else at.replace(hour=0)
    starts = []
    while at < now:
        starts.append(at)
        at += width
    return starts
