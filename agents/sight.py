"""What really runs on this host: one look at the runtimes, shared by all who follow a replica.

Each look replaces the whole picture. A runtime that does not answer leaves the last picture of
its instances as it was and has a fault until it does: a dead daemon is never taken for "gone".
"""

import asyncio
import logging
from collections.abc import Sequence

from agents.runtimes.base import LABEL_HOST, Instance, Runtime, RuntimeFault
from agents.wire import EngineKind, RuntimeKind

LOOK_TIMEOUT_SECONDS = 15.0
"""A daemon that hangs longer than this counts as down until it answers."""
LOOK_INTERVAL_SECONDS = 1.0
"""How soon an exit is noticed while replicas are here."""
QUIET_INTERVAL_SECONDS = 15.0
"""Between looks while the host has no replica."""

log = logging.getLogger("hearth.agent")


class Sight:
    """The instances of one host across its runtimes; `runtimes[0]` starts new ones."""

    def __init__(self, host_id: str, runtimes: Sequence[Runtime]) -> None:
        self._faults: dict[RuntimeKind, RuntimeFault] = {}
        self._host_id = host_id
        self._runtimes = tuple(runtimes)
        self._pictures: dict[RuntimeKind, tuple[Instance, ...]] = {}
        self._looking = asyncio.Lock()
        self._looked = asyncio.Event()

    @property
    def primary(self) -> Runtime:
        """Return the runtime that starts new instances."""
        return self._runtimes[0]

    def starter_of(self, engine: EngineKind) -> Runtime:
        """Return the runtime that starts `engine`: the simulator has no image, it is a process."""
        if engine is EngineKind.SIMULATOR:
            processes = (r for r in self._runtimes if r.kind is RuntimeKind.PROCESS)
            return next(processes, self.primary)
        return self.primary

    def fault_of(self, kind: RuntimeKind) -> RuntimeFault | None:
        """Return why the picture of `kind` is old, None while it is fresh."""
        return self._faults.get(kind)

    def all(self) -> list[Instance]:
        """Return every instance of this host as last seen."""
        return [item for picture in self._pictures.values() for item in picture]

    def of_replica(self, replica_id: str) -> tuple[Instance, ...]:
        return tuple(item for item in self.all() if item.replica_id == replica_id)

    def named(self, name: str) -> Instance | None:
        return next((item for item in self.all() if item.name == name), None)

    def runtime_of(self, instance: Instance) -> Runtime:
        """Return the runtime in which `instance` was seen; the primary one if it is gone."""
        for runtime in self._runtimes:
            names = (item.name for item in self._pictures.get(runtime.kind, ()))
            if instance.name in names:
                return runtime
        return self.primary

    async def look(self) -> None:
        """Ask every runtime now; afterwards the picture is newer than this call."""
        async with self._looking:
            await asyncio.gather(*(self._look_at(runtime) for runtime in self._runtimes))
        self._looked.set()
        self._looked = asyncio.Event()

    async def next_look(self, timeout_seconds: float) -> None:
        """Wait until somebody has looked, at most `timeout_seconds`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._looked.wait()
        except TimeoutError:
            return

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            if self.all() or self._faults:
                await asyncio.sleep(LOOK_INTERVAL_SECONDS)
            else:
                await self.next_look(QUIET_INTERVAL_SECONDS)

    async def _look_at(self, runtime: Runtime) -> None:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                found = await runtime.find()
        except RuntimeFault as fault:
            self._be_blind(runtime.kind, fault)
        except TimeoutError:
            code = "docker_down" if runtime.kind is RuntimeKind.DOCKER else "unhealthy"
            late = f"the {runtime.kind} runtime did not answer within {LOOK_TIMEOUT_SECONDS:.0f} s"
            self._be_blind(runtime.kind, RuntimeFault(code, late))
        else:
            own = (item for item in found if item.labels.get(LABEL_HOST) == self._host_id)
            self._pictures[runtime.kind] = tuple(own)
            if self._faults.pop(runtime.kind, None) is not None:
                log.info("the %s runtime answers again", runtime.kind)

    def _be_blind(self, kind: RuntimeKind, fault: RuntimeFault) -> None:
        if kind not in self._faults:
            log.warning("cannot see the replicas of the %s runtime: %s", kind, fault)
        self._faults[kind] = fault
