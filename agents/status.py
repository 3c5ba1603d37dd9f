"""What the agent says of one replica: written by its supervisor, read by the reporter.

Every change raises `version`; a change of phase, generation, code or endpoint also calls `tell`,
so that it is reported at once. Progress and stage times ride along with the next report, at most
a second later. Changed only by synchronous calls of one event loop.
"""

from collections.abc import Callable, Mapping

import msgspec

from agents.answers import Answers
from agents.journal import Move, Past
from agents.wire import (
    Endpoint,
    EngineMemory,
    Nap,
    ObservedPhase,
    Progress,
    ReplicaReport,
    Rung,
    RuntimeKind,
)

_ARRIVED = (ObservedPhase.READY, ObservedPhase.ASLEEP)

LINE_LIMIT_CHARACTERS = 2000
"""Longest log line in a report; the rest of a line is cut."""


class Status:
    """Observed state of one replica. `tell` is called when a report should leave at once."""

    def __init__(self, replica_id: str, now: float, tell: Callable[[], None]) -> None:
        self.version = 1
        self.report = ReplicaReport(
            replica_id=replica_id, generation=0, phase=ObservedPhase.PENDING, phase_at=now
        )
        self._tell = tell
        self._began_at: float | None = None

    @property
    def phase(self) -> ObservedPhase:
        return self.report.phase

    def begin(self, generation: int, now: float, restarts: int = 0) -> None:
        """Start anew with `generation`: nothing of the one before it holds any more."""
        self._began_at = now
        self._replace(
            ReplicaReport(
                replica_id=self.report.replica_id,
                generation=generation,
                phase=ObservedPhase.PENDING,
                phase_at=now,
                restarts=restarts,
            )
        )

    def enter(self, phase: ObservedPhase, now: float) -> None:
        """Move to `phase`; the trouble of the last one is over."""
        if phase is self.phase:
            return
        if self.phase is ObservedPhase.ASLEEP:
            self._began_at = now
            self._change(rung=Rung.ASLEEP, start_seconds=None, stage_bytes={})
        if phase in _ARRIVED and self._began_at is not None:
            self._change(start_seconds=round(now - self._began_at, 3))
            self._began_at = None
        self._change(
            phase=phase, phase_at=now, progress=None, reason="", code="",
            exit_code=None, log_tail=(),
        )  # fmt: skip

    def progress(self, progress: Progress) -> None:
        if progress != self.report.progress:
            self._change(progress=progress)

    def stage(self, stage: str) -> None:
        """Say at which stage of its start the engine is."""
        if stage and (self.report.progress is None or self.report.progress.stage != stage):
            self._change(progress=Progress(stage=stage))

    def stages(self, seconds: dict[str, float]) -> None:
        if seconds != self.report.stage_seconds:
            self._change(stage_seconds=seconds)

    def brought(self, stage: str, size_bytes: int) -> None:
        """Say how many bytes a stage brought or read."""
        if self.report.stage_bytes.get(stage) != size_bytes:
            self._change(stage_bytes={**self.report.stage_bytes, stage: size_bytes})

    def came_from(self, rung: Rung) -> None:
        """Say what had to be done to start it."""
        self._change(rung=rung)

    def rests(self, nap: Nap, now: float) -> None:
        """Say that it sleeps, and what stays held."""
        self._change(nap=nap)
        self.enter(ObservedPhase.ASLEEP, now)
        self.memory(nap.residual_bytes)

    def runs(self, runtime: RuntimeKind, ref: str, address: str, relay_url: str) -> None:
        """Say where the instance runs and listens; `relay_url` is the relay's base address."""
        endpoint = Endpoint(address=address, relay_url=self._at_relay(relay_url))
        self._change(runtime=runtime, runtime_ref=ref, endpoint=endpoint)

    def relay(self, relay_url: str) -> None:
        """Say that the relay listens at `relay_url` now."""
        endpoint = self.report.endpoint
        if endpoint is not None:
            moved = msgspec.structs.replace(endpoint, relay_url=self._at_relay(relay_url))
            self._change(endpoint=moved)

    def _at_relay(self, relay_url: str) -> str:
        return f"{relay_url}/r/{self.report.replica_id}" if relay_url else ""

    def engine(self, version: str) -> None:
        self._change(engine_version=version)

    def capacity(self, kv_cache_tokens: int | None) -> None:
        if kv_cache_tokens is not None and kv_cache_tokens != self.report.kv_cache_tokens:
            self._change(kv_cache_tokens=kv_cache_tokens)

    def answers(self, answers: Answers) -> None:
        """Keep what its first answers showed."""
        self._change(answers=answers)

    def takes(self, memory: Mapping[str, int]) -> None:
        """Keep what the engine's log told of its memory; of several workers the fullest counts."""
        known = self.report.engine_memory or EngineMemory()
        parts = {part: max(size, getattr(known, part) or 0) for part, size in memory.items()}
        if parts and (fuller := msgspec.structs.replace(known, **parts)) != known:
            self._change(engine_memory=fuller)

    def memory(self, memory_bytes: int | None) -> None:
        """Keep the memory it holds: told with samples and complete reports, no change by itself."""
        if memory_bytes is not None:
            self.report = msgspec.structs.replace(self.report, memory_bytes=memory_bytes)

    def trouble(self, code: str, reason: str) -> None:
        """Say what is wrong without a change of phase; empty strings: nothing any more."""
        if (code, reason) != (self.report.code, self.report.reason):
            self._change(code=code, reason=reason)

    def fail(
        self, code: str, reason: str, now: float, *,
        exit_code: int | None, log_tail: tuple[str, ...],
    ) -> None:  # fmt: skip
        """Say that it failed: no endpoint any more, the stage times kept."""
        self._change(
            phase=ObservedPhase.FAILED, phase_at=now, code=code, reason=reason,
            exit_code=exit_code, log_tail=log_tail, endpoint=None, progress=None,
        )  # fmt: skip

    def recall(self, past: Past) -> None:
        """Take up what the journal knows from before this agent was started."""
        self._replace(
            ReplicaReport(
                replica_id=past.replica_id,
                generation=past.generation,
                phase=_PHASE_AFTER[past.move],
                phase_at=past.at,
                code=past.code,
                reason=past.reason,
                exit_code=past.exit_code,
                log_tail=past.log_tail,
                stage_seconds=past.stage_seconds,
                restarts=past.restarts,
                engine_version=past.engine_version,
                kv_cache_tokens=past.kv_cache_tokens,
                runtime=past.runtime,
            )
        )

    def _change(self, **fields: object) -> None:
        self._replace(msgspec.structs.replace(self.report, **fields))

    def _replace(self, report: ReplicaReport) -> None:
        before, self.report = self.report, report
        self.version += 1
        if _at_once(before) != _at_once(report):
            self._tell()


_PHASE_AFTER = {
    Move.STARTING: ObservedPhase.PENDING,
    Move.STARTED: ObservedPhase.STARTING,
    Move.READY: ObservedPhase.READY,
    Move.ASLEEP: ObservedPhase.ASLEEP,
    Move.STOPPING: ObservedPhase.PENDING,
    Move.STOPPED: ObservedPhase.STOPPED,
    Move.FAILED: ObservedPhase.FAILED,
    Move.CLEARED: ObservedPhase.PENDING,
    Move.FORGOTTEN: ObservedPhase.PENDING,
}
"""What is said of a replica before the first look at it, by the last move made with it."""


def _at_once(report: ReplicaReport) -> tuple[object, ...]:
    return (report.generation, report.phase, report.code, report.endpoint)


def clipped(lines: list[str]) -> tuple[str, ...]:
    """Return `lines` fit for a report: none longer than LINE_LIMIT_CHARACTERS."""
    return tuple(line[:LINE_LIMIT_CHARACTERS] for line in lines)
