"""How long a model that nobody asks for stays hot, then asleep. Pure.

A model asked for often is likely to be asked for again soon: hot time grows with a fading count of
its requests, slowly, around the policy's time. Plain times lose less than a percent of that; a
fixed number of slots by least recent use loses twenty (docs/scaling.md). Called by the ladder for
every idle replica and by `bench/scaling`.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

HOT_SECONDS = 600.0
ASLEEP_SECONDS = 8 * 3600.0
FADING_SECONDS = 7200.0

_GROWTH = 0.35
_FIRST = 0.5
"""Of the policy's time: what a single request is worth."""
_MOST = 3.0
_LEAST = 0.1


class Rung(StrEnum):
    """What is held for a deployment that nobody asks for."""

    HOT = "hot"
    ASLEEP = "asleep"
    CACHED = "cached"


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The policy's times; `hot_seconds` is `scale_to_zero_after_seconds`."""

    hot_seconds: float = HOT_SECONDS
    asleep_seconds: float = ASLEEP_SECONDS
    learns: bool = True
    """False: the hot time is the policy's for every model."""


def requests_recently(before: float, gap_seconds: float) -> float:
    """Return the fading count of requests after one more, `gap_seconds` after the one before."""
    return before * math.exp(-max(0.0, gap_seconds) / FADING_SECONDS) + 1.0


def hot_seconds(keep: KeepAlive, recent: float) -> float:
    """Return how long it stays hot after its last request; `recent` is its fading count."""
    if not keep.learns:
        return keep.hot_seconds
    factor = _FIRST * math.pow(max(1.0, recent), _GROWTH)
    return keep.hot_seconds * min(_MOST, max(_LEAST, factor))


def rung(keep: KeepAlive, recent: float, idle_seconds: float) -> Rung:
    """Return the rung of a model that has been idle for `idle_seconds`."""
    hot = hot_seconds(keep, recent)
    if idle_seconds <= hot:
        return Rung.HOT
    return Rung.ASLEEP if idle_seconds <= hot + keep.asleep_seconds else Rung.CACHED


def value(recent: float, idle_seconds: float, wake_seconds: float, bytes_held: int) -> float:
    """Return what holding is worth: seconds saved a second, per byte. The least goes first.

    The chance of a request falls with idle time about as one over it; what a request saves is the
    wake or start that it does not wait for.
    """
    rate = max(1.0, recent) / FADING_SECONDS
    chance = rate / (1.0 + max(0.0, idle_seconds) / HOT_SECONDS)
    return chance * wake_seconds / max(1, bytes_held)
