"""Collect what a canary is judged by: one sample a request, from the usage ledger.

Added up in the open rollout's row, in the transaction that stores the usage records, so each
request counts once. Called by `apps.traffic.ledger`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.deployments.models import Rollout
from apps.deployments.states import RolloutStage, RolloutState
from apps.deployments.verdict import bin_of

SHADOW = "shadow"
"""Under this name stands what the copies showed; it is for people and judges nothing."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request, or one failed attempt of one."""

    deployment: str
    revision: int
    admitted_at: datetime
    failed: bool
    ttft_seconds: float | None = None
    """Without the wait in the gateway's queue."""
    itl_seconds: float | None = None
    """Mean time between its tokens."""
    usd_per_token: float | None = None
    is_shadow: bool = False


def add(samples: Sequence[Sample]) -> None:
    """Add the samples to the open canaries that they belong to. One query if there are none."""
    by_deployment: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_deployment[sample.deployment].append(sample)
    rows = Rollout.objects.select_for_update().filter(
        deployment__name__in=list(by_deployment),
        state=RolloutState.OPEN,
        stage__in=[RolloutStage.CANARY, RolloutStage.SHADOWING],
    )
    for row in rows.select_related("deployment", "live", "candidate").order_by("id"):
        _add(row, by_deployment[row.deployment.name])


def _add(row: Rollout, samples: Sequence[Sample]) -> None:
    judged = (row.live.number, row.candidate.number)
    for sample in samples:
        if sample.admitted_at < row.stage_at:
            continue
        if sample.is_shadow:
            _count(row.evidence.setdefault(SHADOW, {}), sample)
        elif row.stage == RolloutStage.CANARY and sample.revision in judged:
            _count(row.evidence.setdefault(str(sample.revision), {}), sample)
    row.save(update_fields=["evidence"])


def _count(tally: dict[str, Any], sample: Sample) -> None:
    tally["requests"] = tally.get("requests", 0) + 1
    tally["failed"] = tally.get("failed", 0) + sample.failed
    if sample.failed:
        return
    for name, value in (
        ("ttft", sample.ttft_seconds),
        ("itl", sample.itl_seconds),
        ("cost", sample.usd_per_token),
    ):
        if value is not None and value > 0:
            bins = tally.setdefault(name, {})
            number = str(bin_of(value))
            bins[number] = bins.get(number, 0) + 1
