"""Reads the usage ledger: who used what, grouped as people ask for it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import TruncDay, TruncHour, TruncMonth

from apps.traffic.models import ApiKey, UsageRow
from gateway.wire import Outcome


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

_TRUNCATED = {Group.HOUR: TruncHour, Group.DAY: TruncDay, Group.MONTH: TruncMonth}


@dataclass(frozen=True, kw_only=True)
class UsageFilter:
    """Which records count: admitted from `since` on and before `until`. Empty: any."""

    since: datetime
    until: datetime
    deployment: str = ""
    key: UUID | None = None


def grouped(group: Group, which: UsageFilter) -> QuerySet[UsageRow, Any]:
    """Return sums by group as dictionaries, in the order of the group.

    Keys: `value` (of the group), `requests`, `failed` (all that did not complete), `prompt`,
    `cached`, `output` (tokens), `shadows` (copies for a rollout, in none of the former), `usd`
    (of all, as copies cost too).
    """
    rows = UsageRow.objects.filter(admitted_at__gte=which.since, admitted_at__lt=which.until)
    if which.deployment:
        rows = rows.filter(deployment=which.deployment)
    if which.key is not None:
        rows = rows.filter(key=which.key)
    value = _TRUNCATED[group]("admitted_at") if group in _TRUNCATED else F(group.value)
    return (
        rows.values(value=value)
        .annotate(
            requests=Count("pk", filter=ASKED),
            failed=Count("pk", filter=ASKED & ~Q(outcome=Outcome.COMPLETED)),
            prompt=Sum("prompt_tokens", filter=ASKED, default=0),
            cached=Sum("cached_tokens", filter=ASKED, default=0),
            output=Sum("output_tokens", filter=ASKED, default=0),
            shadows=Count("pk", filter=~ASKED),
            usd=Sum("cost_usd"),
        )
        .order_by("value")
    )


def key_names(keys: list[UUID]) -> dict[UUID, str]:
    """Return the names of API keys."""
    return dict(ApiKey.objects.filter(pk__in=keys).values_list("pk", "name"))
