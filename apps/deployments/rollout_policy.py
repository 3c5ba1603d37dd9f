"""How a deployment's new revisions take over: what may be set, and what it means. Pure.

The one declaration of the policy: the API, YAML files and the pages read and check it here.
"""

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import lru_cache
from math import ceil
from typing import Any, cast

import msgspec

from apps.deployments.states import RolloutStrategy


class BadPolicy(ValueError):
    """A value that cannot be; `field` is its path, as `canary.weight_ratio`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.field = path


@dataclass(frozen=True, kw_only=True)
class CanaryPolicy:
    """What share a candidate gets, and when it has passed."""

    weight_ratio: float = 0.1
    keys: tuple[str, ...] = ()
    """Ids of API keys whose requests all go to the candidate."""
    min_requests: int = 200
    """Requests of the candidate that the final verdict needs; it is looked at from a quarter on."""
    max_seconds: int = 3600
    """Without enough requests after this the rollout pauses and asks a person."""
    max_error_increase_ratio: float = 0.01
    """How much larger the candidate's share of failed requests may be: 0.01 is one in a hundred."""
    max_ttft_ratio: float = 1.2
    """How much longer than live the first token may take; so with the next two."""
    max_itl_ratio: float = 1.2
    max_cost_ratio: float = 1.2
    auto_promote: bool = True


@dataclass(frozen=True, kw_only=True)
class RolloutPolicy:
    """How a new revision takes over."""

    strategy: RolloutStrategy = RolloutStrategy.ROLLING
    max_surge: int = 1
    """Replicas above the wanted number while it goes on."""
    max_unavailable: int = 0
    """Replicas below the wanted number while it goes on."""
    ready_seconds: int = 1800
    """A candidate that brings no further replica to ready for so long is given up."""
    max_failures: int = 3
    """Failures in a row of one candidate replica after which the revision is given up."""
    auto_rollback: bool = True
    """False: pause and ask a person instead."""
    shadow_ratio: float = 0.0
    """Part of the requests copied to the candidate before it gets any; canary and blue/green."""
    shadow_seconds: int = 60
    keep_seconds: int = 60
    """Blue/green: how long the old replicas are kept after the flip, for a way back at once."""
    canary: CanaryPolicy = field(default_factory=CanaryPolicy)

    def candidates(self, wanted: int) -> int:
        """Return how many candidates serve a canary's share when `wanted` replicas do the whole."""
        if wanted == 0:
            return 0
        return max(1, ceil(wanted * self.canary.weight_ratio))


_RANGES: dict[str, tuple[float, float]] = {
    "max_surge": (0, 1000),
    "max_unavailable": (0, 1000),
    "ready_seconds": (10, 86_400),
    "max_failures": (1, 100),
    "shadow_ratio": (0, 1),
    "shadow_seconds": (1, 86_400),
    "keep_seconds": (0, 86_400),
    "canary.weight_ratio": (0, 1),
    "canary.min_requests": (20, 1_000_000),
    "canary.max_seconds": (10, 7 * 86_400),
    "canary.max_error_increase_ratio": (0, 1),
    "canary.max_ttft_ratio": (1, 100),
    "canary.max_itl_ratio": (1, 100),
    "canary.max_cost_ratio": (1, 100),
}


def parse(given: dict[str, Any], base: RolloutPolicy | None = None) -> RolloutPolicy:
    """Return `base` (or the default) with `given` over it. Raises BadPolicy."""
    base = base or RolloutPolicy()
    _check_names("", given, RolloutPolicy)
    changes = dict(given)
    canary = changes.pop("canary", None)
    if canary is not None:
        changes["canary"] = _canary(canary, base.canary)
    if "strategy" in changes:
        changes["strategy"] = _strategy(changes["strategy"])
    policy = RolloutPolicy(**{**_shallow(base), **changes})
    _check(policy)
    return policy


def stored(saved: dict[str, Any]) -> RolloutPolicy:
    """Return a policy as it was saved, which `parse` checked then.

    A fleet has a handful of policies, and every list and every pass reads all of them: each is
    parsed once.
    """
    return _parsed(msgspec.json.encode(saved))


@lru_cache(maxsize=256)
def _parsed(text: bytes) -> RolloutPolicy:
    return parse(msgspec.json.decode(text))


def to_json(policy: RolloutPolicy) -> dict[str, Any]:
    """Return the policy as plain JSON, complete; `parse` reads it back."""
    canary = _shallow(policy.canary) | {"keys": list(policy.canary.keys)}
    return _shallow(policy) | {"strategy": policy.strategy.value, "canary": canary}


def _shallow(policy: RolloutPolicy | CanaryPolicy) -> dict[str, Any]:
    return dict(vars(policy))  # of a long list: `asdict` copies deeply, ten times slower


def _canary(given: object, base: CanaryPolicy) -> CanaryPolicy:
    if not isinstance(given, dict):
        raise BadPolicy("canary", "give an object, as {weight_ratio: 0.1}")
    _check_names("canary.", given, CanaryPolicy)
    keys = given.get("keys", base.keys)
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
        raise BadPolicy("canary.keys", "give a list of ids of API keys")
    return CanaryPolicy(**{**_shallow(base), **given, "keys": tuple(keys)})


def _strategy(word: object) -> RolloutStrategy:
    try:
        return RolloutStrategy(cast(str, word))
    except ValueError:
        known = ", ".join(RolloutStrategy)
        raise BadPolicy("strategy", f"{word!r} is unknown; there are {known}") from None


def _check_names(path: str, given: dict[str, Any], kind: type) -> None:
    known = [one.name for one in fields(kind)]
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise BadPolicy(f"{path}{name}", f"there is no such setting; {hint}")


def _check(policy: RolloutPolicy) -> None:
    for path, (low, high) in _RANGES.items():
        group: Any = policy.canary if path.startswith("canary.") else policy
        name = path.removeprefix("canary.")
        value, is_whole = getattr(group, name), not name.endswith("ratio")
        if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
            raise BadPolicy(path, f"{value!r} is no {'whole number' if is_whole else 'number'}")
        if not low <= value <= high:
            raise BadPolicy(path, f"{value} is outside {low:g} to {high:g}")
    for path, value in (
        ("auto_rollback", policy.auto_rollback),
        ("canary.auto_promote", policy.canary.auto_promote),
    ):
        if not isinstance(value, bool):
            raise BadPolicy(path, f"{value!r} is neither true nor false")
    _check_together(policy)


def _check_together(policy: RolloutPolicy) -> None:
    if policy.max_surge == 0 and policy.max_unavailable == 0:
        raise BadPolicy("max_surge", "with 0 here and in max_unavailable nothing could move")
    by_stages = policy.strategy in (RolloutStrategy.CANARY, RolloutStrategy.BLUE_GREEN)
    if policy.shadow_ratio and not by_stages:
        raise BadPolicy("shadow_ratio", "copies need the strategy canary or blue_green")
    canary = policy.canary
    if policy.strategy is RolloutStrategy.CANARY and not (canary.weight_ratio or canary.keys):
        raise BadPolicy("canary.weight_ratio", "give a weight or keys, or nothing would be judged")
