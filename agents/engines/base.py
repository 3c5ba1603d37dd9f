"""What an inference engine must tell: its command line, its readiness, its stages, its numbers.

One engine is one file. An engine never starts anything itself: it describes a `Launch` for a
runtime and reads what the engine prints and serves.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from agents.answers import Answers
from agents.runtimes.base import Launch
from agents.wire import EngineKind, ReplicaOrder, ReplicaSample, RuntimeKind


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things stand for one replica on this host, chosen by the agent."""

    host_id: str
    runtime: RuntimeKind
    weights_dir: Path
    """Unpacked weights, read-only for the engine."""
    run_dir: Path
    """0700 folder of this replica."""
    adapter_dirs: tuple[Path, ...] = ()
    """Unpacked LoRA adapters, in the order of the spec."""
    draft_dir: Path | None = None
    """Weights of the draft model of speculative decoding."""
    engine_command: tuple[str, ...]
    """How to start the engine in the process runtime, e.g. (`/…/venv/bin/vllm`, `serve`)."""
    image: str
    cache_dir: Path | None = None
    """What engines like this one compiled, shared on this host; None keeps it to the replica."""
    port: int | None = None
    """Loopback port, only where a Unix socket cannot be used."""
    api_key: str = ""
    """Key of this replica, with a port only."""
    interface: str = ""
    """By which it reaches the other hosts of its replica; empty if unknown, or none."""

    @property
    def socket(self) -> Path:
        return self.run_dir / "engine.sock"


@dataclass(frozen=True, kw_only=True)
class StageMark:
    """A line of the engine's log that starts or measures a stage, or tells of its memory."""

    stage: str
    """`import`, `load`, `compile`, `graphs`, `warm-up`; empty if it tells of memory alone."""
    seconds: float | None = None
    """Set if the line itself says how long the stage took."""
    kv_cache_tokens: int | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes by part, named as in `agents.wire.EngineMemory`."""


@dataclass(frozen=True)
class StageRule:
    """A pattern of an engine's log and the stage that it begins, or measures.

    Groups that count, if it has them: `seconds`, and `kv_cache_tokens` with its commas.
    """

    stage: str
    pattern: re.Pattern[str]

    def read(self, line: str) -> StageMark | None:
        found = self.pattern.search(line)
        if found is None:
            return None
        told = found.groupdict()
        seconds, tokens = told.get("seconds"), told.get("kv_cache_tokens")
        return StageMark(
            stage=self.stage,
            seconds=float(seconds) if seconds else None,
            kv_cache_tokens=int(tokens.replace(",", "")) if tokens else None,
        )


class Engine(Protocol):
    @property
    def kind(self) -> EngineKind:
        """Return which engine this is."""

    @property
    def metrics_path(self) -> str:
        """Return where it serves its numbers, for Prometheus."""

    def default_image(self, device: str) -> str:
        """Return the image for `device`; operators override it by HEARTH_ENGINE_IMAGE_<DEVICE>."""

    def launch(self, order: ReplicaOrder, place: Place) -> Launch:
        """Return the one way to run `order` at `place`. Pure; a bad setting raises ValueError."""

    def read_line(self, line: str) -> StageMark | None:
        """Return what this log line tells of the start, None if nothing."""

    async def probe(self, client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
        """Return whether the engine is healthy and answers one real token (or embedding)."""

    async def first_answers(self, client: httpx.AsyncClient, order: ReplicaOrder) -> Answers:
        """Return what its first answers show, all None if it tells nothing of them."""

    async def healthy(self, client: httpx.AsyncClient) -> bool:
        """Return whether a ready engine is still healthy; cheap, asked every few seconds."""

    def sample(self, replica_id: str, at: float, metrics: str) -> ReplicaSample:
        """Return one sample from the text of `/metrics`; what it does not tell stays None."""

    def kv_cache_tokens(self, metrics: str) -> int | None:
        """Return the engine's KV-cache capacity in tokens, from its metrics."""
