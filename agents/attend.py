"""Follow one running instance: read its start from the log, probe it, then watch its health.

It also puts the instance to sleep and wakes it. Used by `agents.supervise` for instances just
started and for adopted ones alike. `follow` returns when the instance has ended and raises
`GivenUp` when it must be ended; it never starts or stops anything itself.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from agents import answers
from agents.engines.base import Engine
from agents.ground import Ground
from agents.journal import Move
from agents.runtimes.base import Instance, RuntimeFault
from agents.sleeper import CannotSleep, SleepBroke, Sleeper, level_for
from agents.stages import LogFollower, StageClock
from agents.status import Status
from agents.wire import EngineKind, ObservedPhase, ReplicaOrder

STEP_SECONDS = 0.25
"""Between looks at an engine that starts; adds at most this to the time to ready."""
LOG_INTERVAL_SECONDS = 0.5
LOG_LINES = 400
"""Lines read at a time while an engine starts; more than it prints in LOG_INTERVAL_SECONDS."""
PROBE_TIMEOUT_SECONDS = 60.0
"""For the health answer and one real token; the first token may wait for a slow CPU."""
ANSWERS_TIMEOUT_SECONDS = 120.0
"""For the check of the first answers, which takes a second."""
HEALTH_INTERVAL_SECONDS = 2.0
HEALTH_TIMEOUT_SECONDS = 5.0
DOUBT_FAILURES = 3
"""Health answers missing in a row before the report says so."""
UNHEALTHY_AFTER_SECONDS = 45.0
"""A ready engine that does not answer for this long is given up. A busy CPU engine may be slow;
one that hangs stays so."""


DEEPEST_LEVEL = 2
"""Assumed of an engine that was found asleep: reading the weights once too often does no harm."""


class GivenUp(Exception):
    """The instance runs but will not serve (any more); `code` is a word of ReplicaReport.code."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What is followed, and how it is wanted."""

    order: ReplicaOrder
    """As the instance was started."""
    name: str
    """Of the instance."""
    run_dir: Path
    asleep: bool | None = None
    """Put it to sleep, or wake it if it sleeps; None leaves it as it is."""


class Attendant:
    """Follows one instance through `client`; `acting` is held while it is put to sleep."""

    def __init__(
        self, ground: Ground, status: Status, charge: Charge, client: httpx.AsyncClient,
        acting: asyncio.Lock,
    ) -> None:  # fmt: skip
        self._ground = ground
        self._status = status
        self._order = charge.order
        self._name = charge.name
        self._charge = charge
        self._client = client
        self._acting = acting
        self._engine: Engine = ground.engine(charge.order.spec)
        self._log = LogFollower()
        self._token_seconds = 0.0
        self._why_awake = ("", "")
        """Code and reason of a sleep that saved nothing: it serves, and says so."""
        self.clock = StageClock(status.report.stage_seconds)

    async def follow(self, note: Callable[[Move], None]) -> None:
        """Bring the instance to what is wanted, tell each move to `note`, watch it.

        Returns when the instance has ended. Raises GivenUp(`start_timeout` | `bad_answers` |
        `unhealthy` | `sleep_failed` | `wake_failed`).
        """
        sleeper = self._sleeper()
        if await sleeper.is_asleep():
            if self._charge.asleep is False:
                await self._wake(sleeper)
                self._arrived(note)
            else:
                self._status.enter(ObservedPhase.ASLEEP, self._ground.now())
        else:
            if self._status.phase is not ObservedPhase.READY and not await self._bring_up():
                return
            if not (self._charge.asleep and await self._put_to_sleep(sleeper, note)):
                self._arrived(note)
        await self._watch()

    def _arrived(self, note: Callable[[Move], None]) -> None:
        if self._status.phase is not ObservedPhase.READY:
            self._status.enter(ObservedPhase.READY, self._ground.now())
            note(Move.READY)
        if self._why_awake[0]:
            self._status.trouble(*self._why_awake)

    # --- Sleep ------------------------------------------------------------------------------

    def _sleeper(self) -> Sleeper:
        return Sleeper(
            order=self._order,
            client=self._client,
            run_dir=self._charge.run_dir,
            held_bytes=self._held_bytes,
            monotonic=self._ground.monotonic,
        )

    async def _held_bytes(self) -> int | None:
        spec = self._order.spec
        if spec.gpu_uuids and spec.engine is not EngineKind.SIMULATOR:
            return self._ground.gpu_used_bytes(spec.gpu_uuids)
        instance = self._running()
        if instance is None:
            return None
        try:
            return await self._ground.sight.runtime_of(instance).memory_bytes(instance)
        except RuntimeFault:
            return None

    async def _put_to_sleep(self, sleeper: Sleeper, note: Callable[[Move], None]) -> bool:
        """Return whether it sleeps; if not it is awake, and `_why_awake` says why."""
        level = level_for(self._order, self._ground.memory_available_bytes())
        try:
            # Broken off in between, nobody would know whether it still serves.
            async with self._acting:
                nap = await sleeper.lie_down(level)
        except CannotSleep as refusal:
            self._why_awake = refusal.code, str(refusal)
            return False
        except SleepBroke as fault:
            raise GivenUp(fault.code, str(fault)) from fault
        self._status.rests(nap, self._ground.now())
        note(Move.ASLEEP)
        return True

    async def _wake(self, sleeper: Sleeper) -> None:
        """Wake it and hear one real token. Breaking off is harmless: it is asked anew."""
        nap = self._status.report.nap
        level = nap.level if nap is not None else DEEPEST_LEVEL
        self._status.enter(ObservedPhase.STARTING, self._ground.now())
        self.clock = StageClock()
        self.clock.begin("wake", self._ground.monotonic())
        self._status.stage(self.clock.stage)
        try:
            await sleeper.get_up(level)
        except SleepBroke as fault:
            raise GivenUp(fault.code, str(fault)) from fault
        self.clock.end(self._ground.monotonic())
        self._status.stages(dict(self.clock.seconds))

    # --- Start ------------------------------------------------------------------------------

    async def _bring_up(self) -> bool:
        """Return True when the engine gave one real token, False when it ended before."""
        self._status.enter(ObservedPhase.STARTING, self._ground.now())
        self.clock.begin("import", self._ground.monotonic())
        probing: asyncio.Task[bool] | None = None
        log_due = 0.0
        deadline = self._start_deadline()
        try:
            while (instance := self._running()) is not None:
                self._check_start_timeout(deadline)
                if self._ground.monotonic() >= log_due:
                    await self._read_log(instance)
                    log_due = self._ground.monotonic() + LOG_INTERVAL_SECONDS
                if probing is None:
                    probing = asyncio.create_task(self._probe())
                await asyncio.wait({probing}, timeout=STEP_SECONDS)
                if not probing.done():
                    continue
                if probing.result() and await self._arrive(instance):
                    return True
                probing = None
                await asyncio.sleep(STEP_SECONDS)
            return False
        finally:
            if probing is not None:
                probing.cancel()

    async def _arrive(self, instance: Instance) -> bool:
        """End the timeline: what the log told last, then the first token that was waited for.

        Return whether the engine outlived its first answers: a question may show what kills it.
        """
        await self._read_log(instance)
        self.clock.end(self._ground.monotonic() - self._token_seconds)
        token = {"first token": round(self._token_seconds, 3)}
        await self._check_answers()
        self.clock.end(self._ground.monotonic())
        self._status.stages(dict(self.clock.seconds) | token)
        return not self._order.spec.settings.check_answers or await self._healthy()

    async def _check_answers(self) -> None:
        """Look at its first answers. Raises GivenUp(`bad_answers`) if they make no sense.

        An engine that tells nothing of them, or not in time, passes: it is healthy and answered.
        """
        if not self._order.spec.settings.check_answers:
            return
        self.clock.begin("check", self._ground.monotonic())
        self._status.stage(self.clock.stage)
        try:
            async with asyncio.timeout(ANSWERS_TIMEOUT_SECONDS):
                seen = await self._engine.first_answers(self._client, self._order)
        except (httpx.HTTPError, TimeoutError, ValueError, LookupError):
            return
        self._status.answers(seen)
        if why := answers.trouble(seen, self._order.answers_baseline):
            raise GivenUp("bad_answers", why)

    def _start_deadline(self) -> float:
        """Return when to give up, by the monotonic clock: the wall clock may be set meanwhile.

        An adopted instance may have become ready long after its time, while nobody looked: it is
        always given time for a probe.
        """
        instance = self._running()
        spent = self._ground.now() - instance.started_at if instance is not None else 0.0
        whole = self._order.spec.start_timeout_seconds
        left = max(whole - max(0.0, spent), min(whole, PROBE_TIMEOUT_SECONDS))
        return self._ground.monotonic() + left

    def _check_start_timeout(self, deadline: float) -> None:
        if self._ground.monotonic() > deadline:
            stage = self.clock.stage or "starting"
            raise GivenUp(
                "start_timeout",
                f"not ready {self._order.spec.start_timeout_seconds:.0f} s after its start, still "
                f"at {stage}: see the log, or give it a longer start timeout",
            )

    async def _read_log(self, instance: Instance) -> None:
        """Read the stages from what the engine printed since the last time."""
        try:
            runtime = self._ground.sight.runtime_of(instance)
            tail = await runtime.log_tail(instance, LOG_LINES)
        except RuntimeFault:
            return  # the sight tells of it; the stages come with the next reading
        for line in self._log.new_lines(tail):
            if (mark := self._engine.read_line(line)) is None:
                continue
            if mark.stage:
                self.clock.mark(mark, self._ground.monotonic())
            self._status.capacity(mark.kv_cache_tokens)
            self._status.takes(mark.memory)
        self._status.stage(self.clock.stage)
        self._status.stages(dict(self.clock.seconds))

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                if not await self._engine.healthy(self._client):
                    return False
                healthy_at = self._ground.monotonic()
                answered = await self._engine.probe(self._client, self._order)
                self._token_seconds = self._ground.monotonic() - healthy_at
                return answered
        except (httpx.HTTPError, TimeoutError):
            return False  # not listening yet, or not answering yet

    async def _watch(self) -> None:
        """Ask for health until the instance ends or was unhealthy for too long."""
        well_at = due_at = self._ground.monotonic()
        failures = 0
        while (instance := self._running()) is not None:
            now = self._ground.monotonic()
            if now >= due_at:
                due_at = now + HEALTH_INTERVAL_SECONDS
                if await self._healthy():
                    well_at, failures = now, 0
                    self._all_is_well(instance)
                else:
                    failures += 1
                    self._doubt(failures, self._ground.monotonic() - well_at)
            await self._ground.sight.next_look(HEALTH_INTERVAL_SECONDS)

    def _all_is_well(self, instance: Instance) -> None:
        """The engine serves; what may still be wrong is that its runtime does not answer."""
        sight = self._ground.sight
        fault = sight.fault_of(sight.runtime_of(instance).kind)
        code, reason = (fault.code, str(fault)) if fault else self._why_awake
        self._status.trouble(code, reason)

    def _doubt(self, failures: int, silent_seconds: float) -> None:
        if silent_seconds > UNHEALTHY_AFTER_SECONDS:
            raise GivenUp("unhealthy", f"no answer to its health probe for {silent_seconds:.0f} s")
        if failures >= DOUBT_FAILURES:
            self._status.trouble("unhealthy", "does not answer its health probe")

    async def _healthy(self) -> bool:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                return await self._engine.healthy(self._client)
        except (httpx.HTTPError, TimeoutError):
            return False

    def _running(self) -> Instance | None:
        instance = self._ground.sight.named(self._name)
        return instance if instance is not None and instance.running else None
