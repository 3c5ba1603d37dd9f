"""Say before a change how it will take over: in what steps, and whether in place. Pure."""

from dataclasses import dataclass

from apps.deployments.rollout_policy import RolloutPolicy
from apps.deployments.states import RolloutStrategy


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """How a change would take over."""

    strategy: RolloutStrategy
    in_place: bool
    """There is no room for a replica beside those that serve: one leaves before one comes."""
    says: str


def foretell(policy: RolloutPolicy, *, serving: int, has_room: bool) -> Foretold | None:
    """Return how a change would take over from `serving` replicas; None if nothing serves.

    `has_room`: some host takes a replica of the new revision beside all that is there.
    """
    if serving == 0:
        return None
    waits = policy.strategy in (RolloutStrategy.CANARY, RolloutStrategy.BLUE_GREEN)
    in_place = not has_room and policy.strategy is RolloutStrategy.ROLLING
    if not has_room and waits:
        says = (
            "No host has room for a replica beside those that serve: the candidate would wait, and "
            f"be given up after {policy.ready_seconds} s. Choose rolling, or make room."
        )
    elif in_place:
        says = _in_place(serving)
    else:
        says = _steps(policy, serving)
    return Foretold(strategy=policy.strategy, in_place=in_place, says=says)


def _in_place(serving: int) -> str:
    if serving == 1:
        return (
            "In place: no host has room beside the one replica, so it drains first. Requests wait "
            "at the gateway until its successor is ready."
        )
    return (
        f"In place: no host has room for surge, so one of {serving} replicas drains before its "
        f"successor starts; {serving - 1} serve meanwhile."
    )


def _steps(policy: RolloutPolicy, serving: int) -> str:
    match policy.strategy:
        case RolloutStrategy.ROLLING:
            return (
                f"Rolling: at most {serving + policy.max_surge} replicas at once, at least "
                f"{max(0, serving - policy.max_unavailable)} serve."
            )
        case RolloutStrategy.RECREATE:
            return "Recreate: all replicas drain, then new ones start. Requests wait meanwhile."
        case RolloutStrategy.CANARY:
            return (
                f"Canary: {policy.candidates(serving)} more, with "
                f"{policy.canary.weight_ratio:.0%} of the requests, judged after "
                f"{policy.canary.min_requests} of them; then rolling."
            )
        case RolloutStrategy.BLUE_GREEN:
            return (
                f"Blue/green: {serving} more start, then all requests move at once; the old ones "
                f"are kept {policy.keep_seconds} s."
            )
