"""The life of the simulator process: load, listen, serve, drain, exit.

It answers nothing before it is loaded: the socket opens with the engine ready, as vLLM's does. At
SIGTERM with a shutdown timeout it refuses new requests with 500, lets streams end, and leaves as
soon as none is left (vLLM lingers to the whole timeout); with no timeout open streams hang until
their clients leave, as vLLM's do. A crash by order exits with code 0, as vLLM's does.
"""

import asyncio
import logging
import signal
import time

from agents.simulator import party
from agents.simulator.answers import Author
from agents.simulator.api import Api
from agents.simulator.core import Core
from agents.simulator.engine import Ballast, SimulatedEngine
from agents.simulator.faults import FaultKind
from agents.simulator.http1 import Connection
from agents.simulator.kv_events import CacheTeller, Publisher
from agents.simulator.loading import load
from agents.simulator.metrics import Meters
from agents.simulator.options import Options
from agents.simulator.replica import Replica

log = logging.getLogger("hearth-simulator")

BACKLOG = 2048
"""Connections that wait to be accepted; a burst beyond it is refused. Uvicorn's default."""

CRASH_LINGER_SECONDS = 0.5
"""From the engine's death to the exit, with /health at 503: vLLM takes 1 to 4 s."""


class Server:
    """One run of the program."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self._replica: Replica | None = None

    async def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal)
        starting = asyncio.create_task(self._start())
        starting.add_done_callback(self._on_started)
        code = await self._exit_code
        starting.cancel()
        return code

    async def _start(self) -> None:
        fault = self._options.fault
        if fault.kind is FaultKind.EXIT_AT_START:
            log.error("RuntimeError: Engine core initialization failed. (simulated fault)")
            self._exit(fault.number)
            return
        if fault.kind is FaultKind.HANG_AT_START:
            log.info("Starting to load model %s...", self._options.model)
            await self._exit_code
        ballast = Ballast(self._options.memory_bytes)
        ballast.fill()
        place = self._options.place
        if place.nodes > 1:
            await party.meet(place, lambda: self._exit(1))
        if place.rank > 0:
            return
        await load(self._options)
        self._replica = self._make_replica(ballast)
        await self._listen(Api(self._replica))

    def _on_started(self, starting: asyncio.Task[None]) -> None:
        if starting.cancelled() or (fault := starting.exception()) is None:
            return
        log.error("the simulator cannot start: %s", fault, exc_info=fault)
        self._exit(1)

    def _make_replica(self, ballast: Ballast) -> Replica:
        options = self._options
        meters = Meters(
            options.served_names[0],
            options.limits,
            started_at=time.time(),
            generates=options.generates,
        )
        core = Core(options.limits, options.timing)
        teller = None
        if options.kv_events is not None:
            publisher = Publisher(options.kv_events)
            teller = CacheTeller(core.pool, options.limits.block_tokens, publisher)
        return Replica(
            options=options,
            teller=teller,
            engine=SimulatedEngine(core, meters, ballast, teller),
            author=Author(options.seed),
            on_crash=self._on_crash,
            started_at=time.time(),
        )

    async def _listen(self, api: Api) -> None:
        loop = asyncio.get_running_loop()
        options = self._options

        def connect() -> Connection:
            return Connection(api.handle, self._connections)

        if options.uds is not None:
            self._listener = await loop.create_unix_server(connect, options.uds, backlog=BACKLOG)
            where = f"unix:{options.uds}"
        else:
            self._listener = await loop.create_server(
                connect, options.host, options.port, backlog=BACKLOG
            )
            port = self._listener.sockets[0].getsockname()[1]
            where = f"http://{options.host}:{port}"
        log.info("Starting vLLM API server (simulated) on %s", where)
        log.info("Application startup complete.")

    # --- The end ------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        if self._replica is None or self._replica.is_draining:
            self._exit(0)
            return
        self._replica.is_draining = True
        log.info("Shutting down: %d requests in flight", self._replica.engine.in_flight)
        timeout = self._options.shutdown_timeout_seconds
        if timeout:
            self._replica.engine.when_drained(lambda: self._exit(0))
            asyncio.get_running_loop().call_later(timeout, self._exit, 0)
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        """Stop the engine under its streams and wait for the clients to leave."""
        assert self._replica is not None
        assert self._listener is not None
        self._listener.close()
        for connection in list(self._connections):
            connection.close_if_idle()
        self._replica.engine.pause()
        self._replica.engine.when_drained(lambda: self._exit(0))

    def _on_crash(self) -> None:
        log.error("EngineCore encountered a fatal error. (simulated fault)")
        asyncio.get_running_loop().call_later(CRASH_LINGER_SECONDS, self._exit, 0)

    def _exit(self, code: int) -> None:
        if not self._exit_code.done():
            # One more turn of the loop lets the last answers leave their buffers.
            asyncio.get_running_loop().call_soon(self._exit_code.set_result, code)
