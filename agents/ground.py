"""What every supervisor of one host stands on: the host's parts, made once by `agents.agent`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.engines.base import Engine
from agents.journal import Journal
from agents.runtimes.base import OnProgress
from agents.settings import Policy
from agents.sight import Sight
from agents.wire import EngineKind, EngineSpec, WeightsRef


class WeightsCache(Protocol):
    """The host's weights; see `agents.weights.store`."""

    def present(self, ref: WeightsRef) -> Path | None:
        """Return the folder of `ref` if it is here and whole."""

    async def ensure(self, ref: WeightsRef, tell: OnProgress) -> Path:
        """Return the folder of `ref`, bringing it if need be. Raises RuntimeFault."""

    async def remove(self, key: str) -> None:
        """Remove the weights of `key`; fine if there is nothing."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    host_id: str
    run_root: Path
    sight: Sight
    journal: Journal
    policy: Policy
    weights: WeightsCache
    engine: Callable[[EngineSpec], Engine]
    engine_command: Callable[[EngineKind, str], tuple[str, ...]]
    """Engine and device -> how the process runtime starts it; asked after `prepare`."""
    has_gpus: bool
    relay_url: Callable[[], str]
    """Base address of the relay as gateways see it, empty while it is not up."""
    is_away: Callable[[], bool]
    """Whether the control plane has been out of reach for a while."""
    tell: Callable[[], None]
    """Called when a report should leave at once."""
    now: Callable[[], float]
    """Wall clock, Unix seconds."""
    monotonic: Callable[[], float]
    """Clock for durations, seconds."""
