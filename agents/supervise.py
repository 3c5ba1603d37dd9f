"""One supervisor a replica: carries out, one after the other, the steps that `converge` decides.

Level-triggered: after every step, and on every change of the order, it asks `next_step` anew from
what is really there. A step under way is broken off only if it is no longer the next one, and never
between the journal's intent and the end of the runtime's call (`Hands.acting`).
Run by `agents.agent`, which catches what is unforeseen, logs it and runs it again.
"""

import asyncio
from contextlib import suppress

from agents.carry import Hands, Live
from agents.converge import Attend, Conclude, Seen, Settle, Start, Step, Stop, Wait, next_step
from agents.ground import Ground
from agents.runtimes.base import RuntimeFault
from agents.status import Status
from agents.wire import ReplicaOrder

WAIT_SECONDS = 2.0
"""A supervisor with nothing to do looks again this often: time, and the sight, may have moved."""
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Rests after a runtime that did not answer."""


class Supervisor:
    """Brings one replica to its order and keeps its `status`."""

    def __init__(self, replica_id: str, ground: Ground, order: ReplicaOrder | None) -> None:
        self.replica_id = replica_id
        self.status = Status(replica_id, ground.now(), ground.tell)
        self._hands = Hands(replica_id, ground, self.status)
        self._ground = ground
        self._order = order
        self._changed = asyncio.Event()
        self._faults_in_a_row = 0
        self._recall()

    @property
    def live(self) -> Live | None:
        """Return the instance that is attended now, if any."""
        return self._hands.live

    def obey(self, order: ReplicaOrder | None) -> None:
        """Take a new order, or None: no order names this replica any more."""
        if order != self._order:
            self._order = order
            self._changed.set()

    def is_forgettable(self) -> bool:
        """Return whether no order names it and nothing of it is left on this host."""
        gone = not self._ground.sight.of_replica(self.replica_id)
        idle = self._blindness() is None and not self._hands.acting.locked()
        return self._order is None and gone and idle

    async def run(self) -> None:
        """Carry out steps for ever."""
        while True:
            self._changed.clear()
            step = self._next()
            blindness = self._blindness()
            if isinstance(step, Start | Conclude | Settle) and blindness is not None:
                self.status.trouble(blindness.code, str(blindness))
                step = Wait()
            if isinstance(step, Wait):
                await self._rest(step)
            else:
                await self._until_changed(step)

    def _recall(self) -> None:
        """Say what the journal and the order know before the first step is made."""
        past = self._ground.journal.past(self.replica_id)
        if past is not None:
            self.status.recall(past)
        elif self._order is not None:
            self.status.begin(self._order.generation, self._ground.now())

    def _next(self) -> Step:
        seen = Seen(
            instances=self._ground.sight.of_replica(self.replica_id),
            past=self._ground.journal.past(self.replica_id),
            away=self._ground.is_away(),
            now=self._ground.now(),
        )
        return next_step(self._order, seen)

    def _blindness(self) -> RuntimeFault | None:
        """Return why it cannot be known what runs of this replica, None if it is known."""
        sight = self._ground.sight
        past = self._ground.journal.past(self.replica_id)
        fault = sight.fault_of(sight.primary.kind)
        if fault is None and past is not None and past.runtime is not None:
            fault = sight.fault_of(past.runtime)
        return fault

    async def _rest(self, wait: Wait) -> None:
        seconds = WAIT_SECONDS
        if wait.until is not None:
            seconds = min(seconds, max(0.0, wait.until - self._ground.now()))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _until_changed(self, step: Step) -> None:
        """Carry out `step`; break it off when an order makes another step the next one."""
        work = asyncio.create_task(self._carry_out(step))
        try:
            while not work.done():
                change = asyncio.create_task(self._changed.wait())
                await asyncio.wait({work, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                self._changed.clear()
                if not work.done() and self._next() != step:
                    async with self._hands.acting:
                        work.cancel()
                    await asyncio.wait({work})
        finally:
            work.cancel()
        if not work.cancelled():
            work.result()

    async def _carry_out(self, step: Step) -> None:
        try:
            match step:
                case Start():
                    await self._hands.start(step)
                case Attend():
                    await self._hands.attend(step, self._order)
                case Stop():
                    await self._hands.stop(step)
                case Conclude():
                    await self._hands.conclude(step)
                case Settle():
                    self._hands.settle(step)
            self._faults_in_a_row = 0
        except RuntimeFault as fault:
            await self._take_fault(fault, step)

    async def _take_fault(self, fault: RuntimeFault, step: Step) -> None:
        """A start that cannot succeed has failed; anything else is tried again after a rest."""
        if isinstance(step, Start) and fault.code != "docker_down":
            self._hands.fail(step.order.generation, fault.code, str(fault))
            return
        self.status.trouble(fault.code, str(fault))
        rest = RETRY_SECONDS[min(self._faults_in_a_row, len(RETRY_SECONDS) - 1)]
        self._faults_in_a_row += 1
        await asyncio.sleep(rest)
        await self._ground.sight.look()
