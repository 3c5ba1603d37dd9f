"""Sums of the usage ledger by group. Called by `api`, `costs` and by pages.

Whole hours come from their sums (`UsageHour`), so a question costs the same however many requests
there were; only the parts of an hour at either end are summed from the rows themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Model, Q, QuerySet, Sum

from apps.traffic.models import ApiKey, UsageHour, UsageRow
from apps.traffic.rollup import hour_of
from gateway.wire import Outcome

_HOUR = timedelta(hours=1)
_COUNTS = ("requests", "failed", "prompt", "cached", "output", "shadows", "usd")


class Group(StrEnum):
    """What usage may be grouped by."""

    MODEL = "model"  # the name that the client asked for
    DEPLOYMENT = "deployment"
    REVISION = "revision"  # of the deployment; 0 for records of before it was told
    KEY = "key"
    REPLICA = "replica"
    HOST = "host"
    OUTCOME = "outcome"
    HOUR = "hour"  # UTC, as are the next two
    DAY = "day"
    MONTH = "month"


ASKED = ~Q(outcome=Outcome.SHADOW)
"""Requests that somebody asked for and got an answer to: no copies."""
_FAILED = ASKED & ~Q(outcome=Outcome.COMPLETED)

_IDS = (Group.KEY, Group.REPLICA)
_TIMES = (Group.HOUR, Group.DAY, Group.MONTH)


@dataclass(frozen=True, kw_only=True)
class UsageFilter:
    """Which records count: admitted from `since` on and before `until`. Empty: any."""

    since: datetime
    until: datetime | None = None
    """None: to this moment. Cheaper than naming it, as the hour under way is summed already."""
    deployment: str = ""
    key: UUID | None = None


type Row = dict[str, Any]


def grouped(group: Group, which: UsageFilter) -> list[Row]:
    """Return sums by group as dictionaries, in the order of the group.

    Keys: `value` (of the group), `requests`, `failed` (all that did not complete), `prompt`,
    `cached`, `output` (tokens), `shadows` (copies for a rollout, in none of the former), `usd`
    (of all, as copies cost too).
    """
    found: dict[Any, Row] = {}
    for row in (*_of_hours(group, which), *_of_edges(group, which)):
        known = found.get(row["value"])
        if known is None:
            found[row["value"]] = row
            continue
        for name in _COUNTS:
            known[name] += row[name]
    return sorted(found.values(), key=lambda row: (row["value"] is not None, row["value"]))


def _of_hours(group: Group, which: UsageFilter) -> Iterator[Row]:
    first, last = _whole_hours(which)
    rows = UsageHour.objects.filter(hour__gte=first)
    if last is not None:
        rows = rows.filter(hour__lt=last)
    if which.key is not None:
        rows = rows.filter(key=str(which.key))
    column = "day" if group is Group.MONTH else group.value
    sums = (
        _of_deployment(rows, which)
        .values(value=F(column))
        .annotate(
            count=Sum("requests", filter=ASKED, default=0),
            failed=Sum("requests", filter=_FAILED, default=0),
            prompt=Sum("prompt_tokens", filter=ASKED, default=0),
            cached=Sum("cached_tokens", filter=ASKED, default=0),
            output=Sum("output_tokens", filter=ASKED, default=0),
            shadows=Sum("requests", filter=~ASKED, default=0),
            usd=Sum("cost_usd"),
        )
        .order_by()
    )
    for row in sums:
        counts: Row = dict(row)
        counts["requests"] = counts.pop("count")
        yield {**counts, "value": _value(group, row["value"])}


def _of_edges(group: Group, which: UsageFilter) -> Iterator[Row]:
    """Yield the sums of the parts of an hour before and after the whole ones."""
    first, last = _whole_hours(which)
    edges = [(which.since, first)]
    if which.until is not None and last is not None:
        edges = [(which.since, which.until)] if last < first else [*edges, (last, which.until)]
    for start, end in edges:
        if start < end:
            yield from _of_edge(group, which, start, end)


def _of_edge(group: Group, which: UsageFilter, start: datetime, end: datetime) -> Iterator[Row]:
    rows = UsageRow.objects.filter(admitted_at__gte=start, admitted_at__lt=end)
    if which.key is not None:
        rows = rows.filter(key=which.key)
    rows = _of_deployment(rows, which)
    sums = {
        "requests": Count("pk", filter=ASKED),
        "failed": Count("pk", filter=_FAILED),
        "prompt": Sum("prompt_tokens", filter=ASKED, default=0),
        "cached": Sum("cached_tokens", filter=ASKED, default=0),
        "output": Sum("output_tokens", filter=ASKED, default=0),
        "shadows": Count("pk", filter=~ASKED),
        "usd": Sum("cost_usd", default=Decimal(0)),
    }
    if group not in _TIMES:
        for row in rows.values(value=F(group.value)).annotate(**sums).order_by():
            yield dict(row)
        return
    # An edge lies within one hour: its time need not be computed from each row.
    whole = rows.aggregate(**sums)
    if whole["requests"] or whole["shadows"]:
        yield {"value": _value(group, start), **whole}


def _whole_hours(which: UsageFilter) -> tuple[datetime, datetime | None]:
    """Return where the whole hours begin and end; the end is before the start if there is none."""
    first = hour_of(which.since)
    first = first if first == which.since else first + _HOUR
    return first, hour_of(which.until) if which.until is not None else None


def _of_deployment[M: Model](rows: QuerySet[M], which: UsageFilter) -> QuerySet[M]:
    return rows.filter(deployment=which.deployment) if which.deployment else rows


def _value(group: Group, value: Any) -> Any:  # noqa: ANN401 - text, id or time of a group
    """Return the group's value as the API knows it."""
    if group in _IDS:
        return UUID(str(value)) if value else None
    if group not in _TIMES:
        return value
    if not isinstance(value, datetime):
        value = _midnight(value)
    if group is Group.HOUR:
        return hour_of(value)
    day = value.replace(hour=0, minute=0, second=0, microsecond=0)
    return day if group is Group.DAY else day.replace(day=1)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def key_names(keys: list[UUID]) -> dict[UUID, str]:
    """Return the names of API keys."""
    return dict(ApiKey.objects.filter(pk__in=keys).values_list("pk", "name"))
