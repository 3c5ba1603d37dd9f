"""What every supervisor of one host stands on: the host's parts, made once by `agents.agent`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.engines.base import Engine
from agents.journal import Journal
from agents.runtimes.base import OnProgress
from agents.settings import Policy
from agents.sight import Sight
from agents.wire import EngineKind, EngineSpec, Lenders, WeightsRef


class WeightsCache(Protocol):
    """The host's weights; see `agents.weights.store`."""

    def present(self, ref: WeightsRef) -> Path | None:
        """Return the folder of `ref` if it is here and whole."""

    async def ensure(self, ref: WeightsRef, tell: OnProgress) -> Path:
        """Return the folder of `ref`, bringing it if need be. Raises RuntimeFault."""

    def borrow_from(self, lenders: Iterable[Lenders]) -> None:
        """Take the newest word on who has which weights: `ensure` asks them before the source."""

    def lendable(self) -> dict[str, str]:
        """Return key -> checksum of what lies here whole. Blocks: what is new is read once."""

    def origin(self, ref: WeightsRef) -> str:
        """Return the host, or the kind of source, from which this process brought `ref`."""

    def size_bytes(self, ref: WeightsRef) -> int:
        """Return the bytes that the weights of `ref` hold on disk, 0 if they are not here."""

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
    compile_root: Path
    """Where engines keep what they compiled; see `agents.compiled`."""
    hardware: Callable[[tuple[str, ...]], str]
    """The kind of these GPUs, or of the processor without any: what compiled code depends on."""
    missing_gpus: Callable[[tuple[str, ...]], tuple[str, ...]]
    """Those of these GPUs, by UUID, that the host does not have now."""
    gpu_used_bytes: Callable[[tuple[str, ...]], int]
    """Memory in use on these GPUs together, by UUID."""
    memory_available_bytes: Callable[[], int]
    """Main memory of the host that is free now."""
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
