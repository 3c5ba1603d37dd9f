"""The figures of runs: numbers and ids, no question and no text."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Sum

from apps.accounts.models import User
from apps.rag.models import Run
from apps.rag.retrieval import Trace
from apps.traffic.models import UsageRow


def record(
    trace: Trace,
    *,
    kind: str,
    user: User,
    usage: Mapping[str, Any],
    timings: Mapping[str, float],
    now: datetime,
) -> None:
    """Keep the figures of a run: numbers and ids, no text."""
    Run.objects.create(
        uid=UUID(trace.asked.run),
        knowledge_base=trace.asked.base,
        build=trace.build,
        profile=trace.asked.profile,
        kind=kind,
        user=user.username,
        at=now,
        timings=dict(timings),
        usage=dict(usage),
        hits=[hit.chunk.pk for hit in trace.hits],
    )


def cost_of(run: UUID) -> dict[str, Any]:
    """Return what the calls of a run cost, as their usage records say; they come within seconds."""
    rows = UsageRow.objects.filter(parent_id=str(run))
    total = rows.aggregate(usd=Sum("cost_usd"))["usd"]
    calls = rows.values("path", "deployment").annotate(
        usd=Sum("cost_usd"), prompt_tokens=Sum("prompt_tokens"), output_tokens=Sum("output_tokens")
    )
    return {
        "cost_usd": None if total is None else float(total),
        "calls": [{**call, "usd": float(call["usd"])} for call in calls.order_by("path")],
    }
