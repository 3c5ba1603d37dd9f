"""Follow one running instance: read its start from the log, probe it, then watch its health.

Used by `agents.supervise` for instances just started and for adopted ones alike. `follow` returns
when the instance has ended and raises `GivenUp` when it must be ended; it never starts or stops
anything itself.
"""

import asyncio
from collections.abc import Callable

import httpx

from agents import answers
from agents.engines.base import Engine
from agents.ground import Ground
from agents.runtimes.base import Instance, RuntimeFault
from agents.stages import LogFollower, StageClock
from agents.status import Status
from agents.wire import ObservedPhase, ReplicaOrder

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


class GivenUp(Exception):
    """The instance runs but will not serve (any more); `code` is a word of ReplicaReport.code."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Attendant:
    """Follows the instance called `name`, started by `order`, through `client`."""

    def __init__(
        self, ground: Ground, status: Status, order: ReplicaOrder, name: str,
        client: httpx.AsyncClient,
    ) -> None:  # fmt: skip
        self._ground = ground
        self._status = status
        self._order = order
        self._name = name
        self._client = client
        self._engine: Engine = ground.engine(order.spec)
        self._log = LogFollower()
        self.clock = StageClock(status.report.stage_seconds)

    async def follow(self, on_ready: Callable[[], None]) -> None:
        """Bring the instance to ready, call `on_ready`, watch it; return when it has ended.

        Raises GivenUp(`start_timeout` | `bad_answers` | `unhealthy`).
        """
        if self._status.phase is not ObservedPhase.READY:
            if not await self._bring_up():
                return
            self._status.enter(ObservedPhase.READY, self._ground.now())
            on_ready()
        await self._watch()

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
                if probing.result():
                    return await self._arrive(instance)
                probing = None
                await asyncio.sleep(STEP_SECONDS)
            return False
        finally:
            if probing is not None:
                probing.cancel()

    async def _arrive(self, instance: Instance) -> bool:
        await self._read_log(instance)
        await self._check_answers()
        self.clock.end(self._ground.monotonic())
        self._status.stages(dict(self.clock.seconds))
        return True

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
                return await self._engine.probe(self._client, self._order)
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
        self._status.trouble(fault.code if fault else "", str(fault or ""))

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
