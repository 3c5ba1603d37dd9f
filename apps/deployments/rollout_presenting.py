"""Rollouts and revisions as the API's JSON. Makes no query of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from apps.deployments import differences, rollout_policy, splits
from apps.deployments.evidence import SHADOW
from apps.deployments.models import Revision, Rollout
from apps.deployments.states import RolloutStage, RolloutState
from apps.deployments.verdict import Tally, median


def rolling_row(rollout: Rollout) -> dict[str, Any]:
    """Return the JSON of a rollout that was read with its revisions."""
    policy = rollout_policy.stored(rollout.policy)
    live, candidate = rollout.live.number, rollout.candidate.number
    split = splits.split(policy, RolloutStage(rollout.stage), live=live, candidate=candidate)
    is_open = rollout.state == RolloutState.OPEN
    return {
        "state": rollout.state,
        "strategy": policy.strategy,
        "stage": rollout.stage,
        "stage_at": rollout.stage_at,
        "live": live,
        "candidate": candidate,
        "paused": rollout.paused,
        "reason": rollout.reason,
        "shares": [
            {
                "revision": share.revision,
                "weight_ratio": share.weight_ratio,
                "keys": list(share.keys),
            }
            for share in (split.shares if is_open else ())
        ],
        "shadow_ratio": split.shadow.ratio if split.shadow and is_open else 0.0,
        "min_requests": policy.canary.min_requests,
        "live_evidence": _evidence(rollout.evidence.get(str(live), {})),
        "candidate_evidence": _evidence(rollout.evidence.get(str(candidate), {})),
        "shadow_evidence": _evidence(rollout.evidence.get(SHADOW, {})),
        "verdict": rollout.verdict,
        "created_by": rollout.created_by,
        "created_at": rollout.created_at,
        "closed_at": rollout.closed_at,
    }


def _evidence(stored: Mapping[str, Any]) -> dict[str, Any]:
    tally = Tally.read(stored)
    cost = median(tally.cost)
    return {
        "requests": tally.requests,
        "failed": tally.failed,
        "ttft_p50_seconds": median(tally.ttft),
        "itl_p50_seconds": median(tally.itl),
        "usd_per_million_tokens_p50": None if cost is None else cost * 1e6,
    }


def changes_of(revision: Revision, before: Revision | None) -> list[dict[str, Any]]:
    """Return what `revision` changed; nothing for the first one."""
    if before is None:
        return []
    found = differences.between(
        differences.flat_spec(before.variant, before.spec),
        differences.flat_spec(revision.variant, revision.spec),
    )
    return [asdict(difference) for difference in found]


def state_of(revision: Revision, live_id: object, rollouts: Sequence[Rollout]) -> str:
    """Return `live`, `candidate`, `rolled_back` or `past`."""
    mine = [rollout for rollout in rollouts if rollout.candidate_id == revision.pk]
    if any(rollout.state == RolloutState.OPEN for rollout in mine):
        return "candidate"
    if revision.pk == live_id:
        return "live"
    if any(rollout.state == RolloutState.ROLLED_BACK for rollout in mine):
        return "rolled_back"
    return "past"
