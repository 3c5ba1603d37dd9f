"""Carry out the steps of one replica: start, attend, stop, conclude, settle.

Each step writes its intent to the journal before it calls the runtime, and tells the outcome after.
`acting` is held from the intent to the end of the runtime's call, so that nobody breaks off there.
Called by `agents.supervise`; raises RuntimeFault when the runtime did not do as asked.
"""

import asyncio
import re
from dataclasses import dataclass

import httpx

from agents import bringing, standing
from agents.attend import Attendant, Charge, GivenUp
from agents.converge import Attend, Conclude, Settle, Start, Stop
from agents.engines.base import Engine
from agents.ground import Ground
from agents.journal import Move, Past
from agents.runtimes.base import Instance, Launch, Runtime, RuntimeFault
from agents.status import Status, clipped
from agents.wire import ObservedPhase, ReplicaOrder, RuntimeKind

KILL_GRACE_SECONDS = 3.0
"""For an instance that is given up: it does not serve, so there is nothing to drain."""
START_CALL_SECONDS = 120.0
"""For the runtime to start an instance; everything slow was brought before."""
STOP_MARGIN_SECONDS = 60.0
"""On top of the grace, for the runtime to do as told."""
LOG_TAIL_LINES = 50
LOOK_SECONDS = 2.0
"""At most so long until a change of what runs is seen."""
UNKNOWN_REST_SECONDS = 2.0
CAUSE_LOG_LINES = 400
"""Where the cause of an end is looked for: it stands before what its victims print."""
_LAST_WORDS = re.compile(r"\b\w*(?:Error|Exception)\b: ?\S.*")
_POINTS_ELSEWHERE = re.compile(r"root cause|stack trace", re.IGNORECASE)


@dataclass(frozen=True)
class Live:
    """An instance that is attended: what the scraper needs of it."""

    instance: Instance
    engine: Engine
    client: httpx.AsyncClient


class Hands:
    """Does what is decided for one replica and keeps its `status` true."""

    def __init__(self, replica_id: str, ground: Ground, status: Status) -> None:
        self.acting = asyncio.Lock()
        self.live: Live | None = None
        self._replica_id = replica_id
        self._ground = ground
        self._status = status

    async def start(self, step: Start) -> None:
        order = step.order
        restarts = self._restarts(step)
        self._status.begin(order.generation, self._ground.now(), restarts)
        try:
            bringing.check_devices(order, self._ground)
            launch = await bringing.bring(order, self._ground, self._status)
        except standing.Refused as refusal:
            self.fail(order.generation, refusal.code, str(refusal))
            return
        sight = self._ground.sight
        async with self.acting:
            for left in sight.of_replica(self._replica_id):
                await sight.runtime_of(left).remove(left)
            self._note(Move.STARTING, order.generation)
            instance = await self._start_one(launch)
            self._note(Move.STARTED, order.generation)
            await sight.look()
            self._say_where(instance)
            self._status.enter(ObservedPhase.STARTING, self._ground.now())

    async def attend(self, step: Attend, order: ReplicaOrder | None) -> None:
        """Follow the instance until it ended; `order` is used if its own can no longer be read."""
        instance = self._ground.sight.named(step.name)
        if instance is None:
            return
        folder = standing.run_dir(self._ground.run_root, self._replica_id, instance.generation)
        order = standing.started_order(folder) or order
        if order is None:
            self._status.trouble("", "runs, but no order names it and how it began is not known")
            await asyncio.sleep(UNKNOWN_REST_SECONDS)
            return
        if self._status.report.generation != instance.generation:
            self._status.begin(instance.generation, self._ground.now())
        self._say_where(instance)
        if order.seat is not None and order.seat.rank > 0:
            await self._accompany(instance)
            return
        await self._follow(
            instance,
            Charge(order=order, name=instance.name, run_dir=folder, asleep=step.asleep),
        )

    async def _follow(self, instance: Instance, charge: Charge) -> None:
        transport = httpx.AsyncHTTPTransport(
            uds=self._address(instance).removeprefix("unix:"), verify=False
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            attendant = Attendant(self._ground, self._status, charge, client, self.acting)
            self.live = Live(instance, self._ground.engine(charge.order.spec), client)
            try:
                await attendant.follow(lambda move: self._note(move, instance.generation))
            except GivenUp as end:
                await self._give_up(instance, end)
            finally:
                self.live = None

    async def _accompany(self, instance: Instance) -> None:
        """Watch one that works for a head on another host: it serves nothing that could be asked.

        It is ready as soon as it runs; when the replica serves, the head says.
        """
        if self._status.phase is not ObservedPhase.READY:
            self._status.enter(ObservedPhase.READY, self._ground.now())
            self._note(Move.READY, instance.generation)
        sight = self._ground.sight
        while (seen := sight.named(instance.name)) is not None and seen.running:
            await sight.next_look(LOOK_SECONDS)

    async def _give_up(self, instance: Instance, end: GivenUp) -> None:
        """Fail the replica and end its instance; the log stays until it is replaced."""
        tail = await self._last_lines(instance, LOG_TAIL_LINES)
        async with self.acting:
            self.fail(instance.generation, end.code, str(end), log_tail=tail)
            await self._stop_one(instance, KILL_GRACE_SECONDS)
            await self._ground.sight.look()

    async def stop(self, step: Stop) -> None:
        self._status.trouble("", f"stopping, up to {step.grace_seconds:.0f} s")
        sight = self._ground.sight
        async with self.acting:
            for name in step.names:
                if (instance := sight.named(name)) is None:
                    continue
                self._note(Move.STOPPING, instance.generation)
                ended = await self._stop_one(instance, step.grace_seconds)
                await sight.runtime_of(instance).remove(ended)
                self._remove_folder(instance.generation)
            await sight.look()

    async def conclude(self, step: Conclude) -> None:
        """Record that an instance ended without an order: a failure, whatever its exit code."""
        instance = self._ground.sight.named(step.name) if step.name else None
        if instance is None:
            self.fail(step.generation, "exit", "gone: it ended while no agent watched")
            return
        lines = await self._last_lines(instance, CAUSE_LOG_LINES)
        code, reason = _cause(instance, lines)
        tail = lines[-LOG_TAIL_LINES:]
        self.fail(step.generation, code, reason, exit_code=instance.exit_code, log_tail=tail)

    def settle(self, step: Settle) -> None:
        """Record that a tombstone is fulfilled."""
        standing.remove_all_run_dirs(self._ground.run_root, self._replica_id)
        self._status.begin(step.generation, self._ground.now())
        self._status.enter(ObservedPhase.STOPPED, self._ground.now())
        self._note(Move.STOPPED, step.generation)

    def fail(
        self, generation: int, code: str, reason: str, *,
        exit_code: int | None = None, log_tail: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Record the failure of `generation` in the journal, then in the status."""
        now = self._ground.now()
        if self._status.report.generation != generation:
            self._status.begin(generation, now)
        self._status.fail(code, reason, now, exit_code=exit_code, log_tail=log_tail)
        self._note(Move.FAILED, generation)

    async def _start_one(self, launch: Launch) -> Instance:
        runtime = self._ground.sight.starter_of(launch.engine)
        try:
            async with asyncio.timeout(START_CALL_SECONDS):
                return await runtime.start(launch)
        except TimeoutError:
            raise _late(runtime, f"{launch.name} could not be started in time") from None

    async def _stop_one(self, instance: Instance, grace_seconds: float) -> Instance:
        runtime = self._ground.sight.runtime_of(instance)
        try:
            async with asyncio.timeout(grace_seconds + STOP_MARGIN_SECONDS):
                return await runtime.stop(instance, grace_seconds)
        except TimeoutError:
            raise _late(runtime, f"{instance.name} could not be stopped in time") from None

    async def _last_lines(self, instance: Instance, count: int) -> tuple[str, ...]:
        runtime = self._ground.sight.runtime_of(instance)
        try:
            return clipped(await runtime.log_tail(instance, count))
        except RuntimeFault as fault:
            return (f"(the log cannot be read: {fault})",)

    def _say_where(self, instance: Instance) -> None:
        runtime = self._ground.sight.runtime_of(instance)
        self._status.runs(
            runtime.kind, instance.ref, self._address(instance), self._ground.relay_url()
        )

    def _address(self, instance: Instance) -> str:
        return standing.address(self._ground.run_root, self._replica_id, instance.generation)

    def _remove_folder(self, generation: int) -> None:
        folder = standing.run_dir(self._ground.run_root, self._replica_id, generation)
        standing.remove_run_dir(folder)

    def _restarts(self, step: Start) -> int:
        past = self._ground.journal.past(self._replica_id)
        if past is None or past.generation != step.order.generation:
            return 0
        return past.restarts + 1 if step.again else past.restarts

    def _note(self, move: Move, generation: int) -> None:
        """Write `move` to the journal with what the status knows."""
        report = self._status.report
        same = report.generation == generation
        self._ground.journal.write(
            Past(
                replica_id=self._replica_id,
                generation=generation,
                move=move,
                at=self._ground.now(),
                code=report.code if same else "",
                reason=report.reason if same else "",
                exit_code=report.exit_code if same else None,
                log_tail=report.log_tail if same else (),
                stage_seconds=report.stage_seconds if same else {},
                restarts=report.restarts if same else 0,
                engine_version=report.engine_version if same else "",
                kv_cache_tokens=report.kv_cache_tokens if same else None,
                runtime=report.runtime if same else None,
            )
        )


def _late(runtime: Runtime, message: str) -> RuntimeFault:
    """Return the fault of a call that did not end: what it did is unknown, so look before more."""
    return RuntimeFault("docker_down" if runtime.kind is RuntimeKind.DOCKER else "exit", message)


def _cause(instance: Instance, lines: tuple[str, ...]) -> tuple[str, str]:
    """Return the code and the sentence for an instance that ended without an order.

    The last error of the log is the cause, unless it only says that the cause stands above it.
    """
    if instance.out_of_memory:
        return "oom", "killed: it needed more memory than its limit"
    how = "ended" if instance.exit_code is None else f"ended with exit code {instance.exit_code}"
    found = [match.group() for line in reversed(lines) if (match := _LAST_WORDS.search(line))]
    causes = (words for words in found if not _POINTS_ELSEWHERE.search(words))
    words = next(causes, found[0] if found else "")
    return "exit", f"the engine {how}: {words[:300]}" if words else f"the engine {how}"
