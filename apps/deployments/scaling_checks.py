"""Check what people want of scaling, field by field. Called by `actions` before a save."""

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apps.deployments import cron
from apps.deployments.models import ScalingPolicy
from apps.deployments.orders import MAX_REPLICAS, Scaling
from apps.deployments.states import ScalingProfile, ScalingRule
from apps.lib.problems import Problem, of_field

LONGEST_HOLD_SECONDS = 3600
LONGEST_ASLEEP_SECONDS = 90 * 86_400
LONGEST_IDLE_SECONDS = 7 * 86_400
LONGEST_WINDOW_SECONDS = 7 * 86_400
MOST_WINDOWS = 20
_WINDOW_KEYS = {"cron", "timezone", "duration_seconds", "min_replicas", "max_replicas"}

_RANGES = {
    "target_concurrency": (1, 100_000),
    "asleep_replicas": (0, MAX_REPLICAS),
    "cached_replicas": (0, MAX_REPLICAS),
    "asleep_ttl_seconds": (0, LONGEST_ASLEEP_SECONDS),
    "scale_to_zero_after_seconds": (10, LONGEST_IDLE_SECONDS),
    "hold_seconds": (0, LONGEST_HOLD_SECONDS),
}


def checked_scaling(wish: Scaling, policy: ScalingPolicy) -> ScalingPolicy:
    """Return `policy` with `wish` applied. Raises Problem 400 naming the field.

    A wanted minimum above the maximum that nobody set lifts the maximum with it.
    """
    _set_bounds(wish, policy)
    for name, (low, high) in _RANGES.items():
        value = getattr(wish, name)
        if value is not None:
            _check_range(f"scaling.{name}", value, low, high)
            setattr(policy, name, value)
    if wish.shares_pool is not None:
        policy.shares_pool = wish.shares_pool
    policy.profile = _word("profile", wish.profile or policy.profile, list(ScalingProfile))
    policy.rule = _word("rule", wish.rule or policy.rule, list(ScalingRule))
    if wish.schedule is not None:
        policy.schedule = _checked_schedule(wish.schedule)
    _set_limits(wish, policy)
    return policy


def warnings(policy: ScalingPolicy, start_seconds: float | None) -> list[str]:
    """Return what is allowed but hardly meant, with its number. `start_seconds`: measured, p90."""
    if start_seconds is None:
        return []
    sleeps = policy.asleep_replicas > 0 or policy.shares_pool
    doubts = (
        (
            policy.min_replicas == 0, "scale_to_zero_after_seconds",
            "it would start more than it serves",
        ),
        (True, "hold_seconds", "replicas would leave as others come"),
        # 0 keeps sleepers for ever.
        (
            sleeps and policy.asleep_ttl_seconds > 0, "asleep_ttl_seconds",
            "a sleeper would be gone sooner than its start was worth",
        ),
    )  # fmt: skip
    return [
        f"{name}: {getattr(policy, name)} s is shorter than a start, which takes "
        f"{start_seconds:.0f} s here; {what}."
        for counts, name, what in doubts
        if counts and getattr(policy, name) < start_seconds
    ]


def _set_bounds(wish: Scaling, policy: ScalingPolicy) -> None:
    low = policy.min_replicas if wish.min_replicas is None else wish.min_replicas
    high = wish.max_replicas
    if high is None:
        high = max(policy.max_replicas, low)
    _check_range("scaling.min_replicas", low, 0, MAX_REPLICAS)
    _check_range("scaling.max_replicas", high, 0, MAX_REPLICAS)
    if low > high:
        raise invalid(
            "scaling.min_replicas",
            f"{low} is more than max_replicas ({high}); lower it or raise that",
        )
    policy.min_replicas, policy.max_replicas = low, high


def _set_limits(wish: Scaling, policy: ScalingPolicy) -> None:
    if wish.gpu_budget is not None:
        _check_range("scaling.gpu_budget", wish.gpu_budget, 0, 100_000)
        policy.gpu_budget = wish.gpu_budget or None
    if wish.ttft_target_seconds is not None:
        if not 0 <= wish.ttft_target_seconds <= LONGEST_HOLD_SECONDS:
            raise invalid(
                "scaling.ttft_target_seconds",
                f"{wish.ttft_target_seconds} is outside 0 to {LONGEST_HOLD_SECONDS}",
            )
        policy.ttft_target_seconds = wish.ttft_target_seconds or None


def _checked_schedule(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the windows complete. Raises Problem 400 naming window and field."""
    if len(windows) > MOST_WINDOWS:
        raise invalid("scaling.schedule", f"{len(windows)} windows; {MOST_WINDOWS} at most")
    return [_window(number, window) for number, window in enumerate(windows)]


def _window(number: int, window: dict[str, Any]) -> dict[str, Any]:
    field = f"scaling.schedule.{number}"
    if unknown := sorted(set(window) - _WINDOW_KEYS):
        raise invalid(
            field, f"{unknown[0]} is unknown; there are {', '.join(sorted(_WINDOW_KEYS))}"
        )
    text = str(window.get("cron", ""))
    try:
        cron.parse(text)
    except ValueError as error:
        raise invalid(f"{field}.cron", str(error)) from None
    zone = str(window.get("timezone") or "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid(
            f"{field}.timezone", f"`{zone}` is no time zone, as `Europe/Berlin`"
        ) from None
    seconds = _whole(field, window, "duration_seconds", 60, LONGEST_WINDOW_SECONDS)
    low = _whole(field, window, "min_replicas", 0, MAX_REPLICAS)
    high = _whole(field, window, "max_replicas", 0, MAX_REPLICAS)
    if seconds is None:
        raise invalid(f"{field}.duration_seconds", "say for how long these bounds hold")
    if low is None and high is None:
        raise invalid(field, "give min_replicas, max_replicas or both")
    if low is not None and high is not None and low > high:
        raise invalid(f"{field}.min_replicas", f"{low} is more than max_replicas ({high})")
    return {
        "cron": text,
        "timezone": zone,
        "duration_seconds": seconds,
        "min_replicas": low,
        "max_replicas": high,
    }


def _whole(field: str, window: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = window.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"{field}.{name}", f"`{value}` is no whole number")
    _check_range(f"{field}.{name}", value, low, high)
    return value


def _word(name: str, value: str, known: list[str]) -> str:
    if value not in known:
        raise invalid(f"scaling.{name}", f"`{value}` is unknown; there are {', '.join(known)}")
    return value


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise invalid(field, f"{value} is outside {low} to {high}")


def invalid(field: str, message: str) -> Problem:
    """Return the Problem 400 that puts `message` beside `field`."""
    return of_field(400, "invalid", field, message, detail=f"{field}: {message}.")
