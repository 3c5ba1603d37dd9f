"""What the tab Revisions shows: revisions with their differences, and the rollout under way."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.dashboard import units
from apps.deployments import queries
from apps.deployments.models import Deployment, Revision
from apps.deployments.rollout_presenting import changes_of, rolling_row, state_of
from apps.deployments.states import RolloutStage, RolloutStrategy

_STATE = {
    "live": ("live", "Live"),
    "candidate": ("starting", "Candidate"),
    "rolled_back": ("failed", "Rolled back"),
    "past": ("stopped", "Past"),
}
_ENDS = {"promoted": "Promoted", "rolled_back": "Rolled back", "superseded": "Superseded"}
_STRATEGY = {
    RolloutStrategy.ROLLING: "Rolling",
    RolloutStrategy.RECREATE: "Recreate",
    RolloutStrategy.CANARY: "Canary",
    RolloutStrategy.BLUE_GREEN: "Blue/green",
}
_STAGES = {
    RolloutStage.STARTING: "Candidates start",
    RolloutStage.SHADOWING: "Candidates get copies",
    RolloutStage.CANARY: "Candidates serve a share and are judged",
    RolloutStage.FLIPPED: "All traffic on the candidates",
    RolloutStage.PROMOTING: "Candidates take over",
}
_ORDER = {
    RolloutStrategy.ROLLING: (RolloutStage.STARTING,),
    RolloutStrategy.RECREATE: (RolloutStage.STARTING,),
    RolloutStrategy.CANARY: (
        RolloutStage.STARTING, RolloutStage.SHADOWING, RolloutStage.CANARY, RolloutStage.PROMOTING,
    ),
    RolloutStrategy.BLUE_GREEN: (
        RolloutStage.STARTING, RolloutStage.SHADOWING, RolloutStage.FLIPPED,
    ),
}  # fmt: skip
NOTHING = "\u2013"
"""What stands where there is no value."""

_MEASURES = {
    "errors": "Failed requests",
    "ttft": "Time to first token",
    "itl": "Time between tokens",
    "cost": "Cost per 1M tokens",
}


@dataclass(frozen=True, kw_only=True)
class RevisionRow:
    number: int
    css: str
    word: str
    by: str
    at: datetime
    variant: str
    changes: list[dict[str, str]]
    can_go_back: bool


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measure of the verdict's table; texts with units."""

    name: str
    live: str
    candidate: str
    tolerated: str
    p_value: str
    is_worse: bool


@dataclass(frozen=True, kw_only=True)
class RolloutView:
    strategy: str
    live: int
    candidate: int
    paused: bool
    reason: str
    since: datetime
    steps: list[tuple[str, str]]
    """Word and state (`done`, `now`, ``) of each stage."""
    share_ratio: float | None
    """Part of the requests that the candidate gets; None: as its replicas have room."""
    shadow_ratio: float
    lines: list[Line]
    says: str
    live_requests: int
    candidate_requests: int
    min_requests: int
    is_judged: bool
    ready: int
    old: int
    can_promote: bool


@dataclass(frozen=True, kw_only=True)
class PastRow:
    candidate: int
    live: int
    strategy: str
    word: str
    css: str
    reason: str
    at: datetime | None


def revision_rows(deployment: Deployment) -> list[RevisionRow]:
    """Return all revisions, newest first."""
    history = queries.history_of(deployment)
    newest = sorted(history.revisions.values(), key=lambda one: -one.number)
    return [
        _revision(one, state_of(one, deployment.live_id, history.rollouts), history.before(one))
        for one in newest
    ]


def _revision(revision: Revision, state: str, before: Revision | None) -> RevisionRow:
    css, word = _STATE[state]
    changes = [
        {"field": row["field"], "old": _plain(row["old"]), "new": _plain(row["new"])}
        for row in changes_of(revision, before)
    ]
    return RevisionRow(
        number=revision.number,
        css=css,
        word=word,
        by=revision.created_by,
        at=revision.created_at,
        variant=revision.variant,
        changes=changes,
        can_go_back=state in ("past", "rolled_back"),
    )


def _plain(value: object) -> str:
    return "not set" if value in (None, "") else str(value)


def rollout_view(deployment: Deployment) -> RolloutView | None:
    """Return the rollout under way of a row from `queries.deployments()`."""
    rollout = queries.rollout_of(deployment)
    if rollout is None:
        return None
    row = rolling_row(rollout)
    replicas = deployment.current_replicas  # type: ignore[attr-defined]  # prefetched
    ready = [r.revision.number for r in replicas if r.phase == "ready"]
    strategy, stage = RolloutStrategy(row["strategy"]), RolloutStage(row["stage"])
    verdict: Mapping[str, Any] = row["verdict"] or {}
    shares = {share["revision"]: share["weight_ratio"] for share in row["shares"]}
    return RolloutView(
        strategy=_STRATEGY[strategy],
        live=row["live"],
        candidate=row["candidate"],
        paused=row["paused"],
        reason=row["reason"],
        since=row["created_at"],
        steps=_steps(strategy, stage, copies=rollout.policy["shadow_ratio"] > 0),
        share_ratio=shares.get(row["candidate"], 0.0) if shares else None,
        shadow_ratio=row["shadow_ratio"],
        lines=_lines(verdict) or _evidence_lines(row),
        says=verdict.get("says", ""),
        live_requests=row["live_evidence"]["requests"],
        candidate_requests=row["candidate_evidence"]["requests"],
        min_requests=row["min_requests"],
        is_judged=strategy is RolloutStrategy.CANARY and stage is not RolloutStage.STARTING,
        ready=ready.count(row["candidate"]),
        old=sum(number != row["candidate"] for number in ready),
        can_promote=ready.count(row["candidate"]) > 0 and stage is not RolloutStage.PROMOTING,
    )


def _steps(
    strategy: RolloutStrategy, stage: RolloutStage, *, copies: bool
) -> list[tuple[str, str]]:
    stages = [s for s in _ORDER[strategy] if copies or s is not RolloutStage.SHADOWING]
    at = stages.index(stage) if stage in stages else len(stages)
    told = [_STAGES[s] for s in stages] + ["Done"]
    states = ["done" if n < at else "now" if n == at else "" for n in range(len(told))]
    return list(zip(told, states, strict=True))


def _lines(verdict: Mapping[str, Any]) -> list[Line]:
    return [
        Line(
            name=_MEASURES[measure["name"]],
            live=_value(measure["name"], measure["live"]),
            candidate=_value(measure["name"], measure["candidate"]),
            tolerated=_tolerated(measure["name"], measure["limit"]),
            p_value=NOTHING if measure["p_value"] is None else f"{measure['p_value']:.2g}",
            is_worse=measure["is_worse"],
        )
        for measure in verdict.get("measures", ())
    ]


def _evidence_lines(row: Mapping[str, Any]) -> list[Line]:
    """Return what was measured before the first look at it."""
    live, candidate = row["live_evidence"], row["candidate_evidence"]
    names = {"ttft": "ttft_p50_seconds", "itl": "itl_p50_seconds"}
    return [
        Line(
            name=_MEASURES[name],
            live=_value(name, live[key]),
            candidate=_value(name, candidate[key]),
            tolerated="",
            p_value=NOTHING,
            is_worse=False,
        )
        for name, key in names.items()
        if live[key] is not None or candidate[key] is not None
    ]


def _value(name: str, value: float | None) -> str:
    if value is None:
        return NOTHING
    if name == "errors":
        return f"{value:.1%}"
    return units.usd(value * 1e6) if name == "cost" else units.seconds(value)


def _tolerated(name: str, limit: float) -> str:
    return f"+{limit:.1%}" if name == "errors" else f"\u00d7 {limit:g}"


def past_rows(deployment: Deployment, most: int = 10) -> list[PastRow]:
    """Return the newest rollouts that are over."""
    found = queries.rollouts_of(deployment).exclude(state="open")[:most]
    return [
        PastRow(
            candidate=one.candidate.number,
            live=one.live.number,
            strategy=_STRATEGY[RolloutStrategy(one.policy["strategy"])],
            word=_ENDS[one.state],
            css={"promoted": "live", "rolled_back": "failed"}.get(one.state, "stopped"),
            reason=one.reason,
            at=one.closed_at,
        )
        for one in found
    ]
