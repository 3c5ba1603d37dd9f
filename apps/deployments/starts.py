"""The record of starts: written when one ends, read for what the next will take.

Times are compared per model and rung, of this deployment first, then of the same model anywhere.
The autoscaler asks `start_seconds`, the ladder `rung_seconds`, the pages and the ETA the rest.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import product
from typing import Any

from django.db.models import F, QuerySet, Window
from django.db.models.functions import RowNumber

from agents.wire import CacheKind, ReplicaReport, Rung
from apps.deployments.models import Deployment, Replica, Start
from apps.fleet.models import CacheItem

KEPT_STARTS = 200
"""Per deployment; the oldest go."""
COUNTED_STARTS = 20
"""The newest so many make a figure: an old disk or an old image says nothing of today."""
_READ_STARTS = 2000
STAGES = (
    "image", "engine", "weights", "import", "load", "compile", "graphs", "warm-up", "wake",
    "first token", "check", "other",
)  # fmt: skip
"""In the order in which they happen; `other` is what lies between them."""

type StartKey = tuple[str, str, str | None]
"""Which starts are compared: the model (`model_key`), the host's name, the rung; None is any."""


def model_key(catalog_slug: str, variant: str) -> str:
    """Return under which name starts of this model are compared."""
    return f"{catalog_slug}:{variant}"


def record(replica: Replica, report: ReplicaReport, now: datetime, *, failed: bool) -> None:
    """Keep the start of `replica` that has just ended, as its agent measured it."""
    if not report.stage_seconds:
        return
    stages = timeline(report.stage_seconds, report.stage_bytes, report.start_seconds)
    seconds = report.start_seconds or sum(stage["seconds"] for stage in stages)
    deployment, revision = replica.deployment, replica.revision
    Start.objects.create(
        deployment=deployment,
        replica=replica.pk,
        host=replica.host.name if replica.host else "",
        model=model_key(deployment.catalog_slug, revision.variant),
        engine=revision.engine,
        engine_version=report.engine_version[:40],
        rung=report.rung or Rung.COLD,
        began_at=now - timedelta(seconds=seconds),
        ended_at=now,
        seconds=seconds,
        stages=stages,
        failure=report.code[:32] if failed else "",
        reason=report.reason if failed else "",
    )
    kept = Start.objects.filter(deployment=deployment).order_by("-id").values("pk")
    oldest = kept[KEPT_STARTS : KEPT_STARTS + 1].first()
    if oldest is not None:
        Start.objects.filter(deployment=deployment, pk__lte=oldest["pk"]).delete()


def timeline(
    seconds: Mapping[str, float], sizes: Mapping[str, int], whole: float | None
) -> list[dict[str, Any]]:
    """Return the stages in order with their bytes; what is left of `whole` is `other`."""
    known = [name for name in STAGES if seconds.get(name)]
    known += sorted(name for name in seconds if name not in STAGES)
    stages = [
        {"stage": name, "seconds": round(seconds[name], 3), "bytes": sizes.get(name)}
        for name in known
    ]
    rest = (whole or 0.0) - sum(seconds[name] for name in known)
    if rest > 0.05:
        stages.append({"stage": "other", "seconds": round(rest, 3), "bytes": None})
    return stages


def of_deployment(deployment: Deployment) -> QuerySet[Start]:
    """Return the starts of a deployment, newest first."""
    return Start.objects.filter(deployment=deployment).order_by("-id")


def images(deployment: Deployment) -> list[CacheItem]:
    """Return the images that were fetched ahead for this deployment, by host."""
    rows = CacheItem.objects.filter(kind=CacheKind.IMAGE).select_related("host")
    return [row for row in rows.order_by("host__name") if deployment.name in row.wanted_by]


def start_seconds(deployment: Deployment, rung: Rung) -> float | None:
    """Return the p90 of the newest starts of this deployment from `rung`; None if unmeasured.

    Without one of its own, those of the same model anywhere count.
    """
    good = Start.objects.filter(rung=rung, failure="").order_by("-id")
    own = list(
        good.filter(deployment=deployment).values_list("seconds", flat=True)[:COUNTED_STARTS]
    )
    if own:
        return percentile(own)
    newest = deployment.revisions.order_by("-number").only("variant").first()
    if newest is None:
        return None
    key = model_key(deployment.catalog_slug, newest.variant)
    like = list(good.filter(model=key).values_list("seconds", flat=True)[:COUNTED_STARTS])
    return percentile(like) if like else None


def rung_seconds(models: Iterable[str] | None = None) -> dict[str, dict[str, float]]:
    """Return by model the p90 seconds from each rung, over its newest starts. One query."""
    rows = Start.objects.filter(failure="").order_by("-id")
    if models is not None:
        rows = rows.filter(model__in=list(models))
    grouped: dict[tuple[str, str], list[float]] = defaultdict(list)
    for model, rung, seconds in rows.values_list("model", "rung", "seconds")[:_READ_STARTS]:
        group = grouped[model, rung]
        if len(group) < COUNTED_STARTS:
            group.append(seconds)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (model, rung), group in grouped.items():
        found[model][rung] = percentile(group)
    return found


def stage_medians(keys: Iterable[StartKey]) -> dict[StartKey, dict[str, float]]:
    """Return by key the median seconds of each stage over the newest such starts.

    Other hosts' count where the key's has none; empty where nobody has started the model yet. One
    query, none for no keys.
    """
    wanted = set(keys)
    if not wanted:
        return {}
    alike = [F("model"), F("host"), F("rung")]
    rows = (
        Start.objects.filter(model__in={model for model, _, _ in wanted}, failure="")
        .annotate(nth=Window(RowNumber(), partition_by=alike, order_by=F("id").desc()))
        .filter(nth__lte=COUNTED_STARTS)
        .order_by("-id")
    )
    groups: dict[tuple[str, str | None, str | None], list[Any]] = defaultdict(list)
    for model, host, rung, stages in rows.values_list("model", "host", "rung", "stages"):
        for group in product([model], [host, None], [rung, None]):
            if len(groups[group]) < COUNTED_STARTS:
                groups[group].append(stages)
    return {
        (model, host, rung): _medians(groups[model, host, rung] or groups[model, None, rung])
        for model, host, rung in wanted
    }


def medians_of(page: Iterable[Start]) -> dict[StartKey, dict[str, float]]:
    """Return the stage medians for each (model, host, rung) that occurs."""
    return stage_medians((start.model, start.host, start.rung) for start in page)


def _medians(timelines: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    spent: dict[str, list[float]] = defaultdict(list)
    for stages in timelines:
        took = {stage["stage"]: float(stage["seconds"]) for stage in stages}
        for name in STAGES:
            spent[name].append(took.get(name, 0.0))
    return {name: statistics.median(values) for name, values in spent.items() if any(values)}


def percentile(values: Sequence[float], ratio: float = 0.9) -> float:
    """Return the value below which `ratio` of `values` lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(ratio * len(ordered)) - 1)]
