"""What part of the requests each revision gets at each stage of a rollout. Pure."""

from dataclasses import dataclass

from apps.deployments.rollout_policy import RolloutPolicy
from apps.deployments.states import RolloutStage, RolloutStrategy
from gateway.wire import Shadow, Share


@dataclass(frozen=True, kw_only=True)
class Split:
    """Empty shares: all ready replicas are alike, whatever revision they run."""

    shares: tuple[Share, ...] = ()
    shadow: Shadow | None = None


def split(policy: RolloutPolicy, stage: RolloutStage, *, live: int, candidate: int) -> Split:
    """Return the split between the revisions numbered `live` and `candidate`."""
    if policy.strategy not in (RolloutStrategy.CANARY, RolloutStrategy.BLUE_GREEN):
        return Split()
    match stage:
        case RolloutStage.STARTING:
            return Split(shares=(Share(revision=live, weight_ratio=1.0),))
        case RolloutStage.SHADOWING:
            shadow = Shadow(revision=candidate, ratio=policy.shadow_ratio)
            return Split(shares=(Share(revision=live, weight_ratio=1.0),), shadow=shadow)
        case RolloutStage.CANARY:
            weight, keys = policy.canary.weight_ratio, policy.canary.keys
            return Split(
                shares=(
                    Share(revision=candidate, weight_ratio=weight, keys=keys),
                    Share(revision=live, weight_ratio=1.0 - weight),
                )
            )
        case RolloutStage.FLIPPED:
            return Split(shares=(Share(revision=candidate, weight_ratio=1.0),))
        case RolloutStage.PROMOTING:
            return Split()
