"""A gateway in the test's own process: real sockets, real spool, short periods."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from gateway.app import Gateway
from gateway.core import Core
from gateway.server import ClientConnection
from gateway.settings import Deadlines, Limits, Settings
from gateway.spool import Spool
from gateway.table import parse
from gateway.watch import sweep, watch_queues
from tests.gateway.client import Answer, Client, ask, fetch
from tests.gateway.upstream import Upstream

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello, who are you?"}]}
STREAM = {**CHAT, "stream": True}
PATH = "/v1/chat/completions"


def key(secret: str = "sk-one", **fields: object) -> dict:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return {"id": f"id-of-{secret}", "sha256": digest, **fields}


def model(*upstreams: Upstream | dict, **fields: object) -> dict:
    replicas = [
        {"id": f"r{n}", "url": up.url} if isinstance(up, Upstream) else up
        for n, up in enumerate(upstreams, 1)
    ]
    return {"deployment": "m", "replicas": replicas, **fields}


def table(models: dict, *keys: dict, revision: int = 1) -> dict:
    return {"revision": revision, "models": models, "keys": list(keys) or [key()]}


class Harness:
    """What a test holds of a running gateway."""

    def __init__(self, core: Core, app: Gateway, port: int, log: Path) -> None:
        self.core = core
        self.app = app
        self.port = port
        self.log = log

    def apply(self, value: dict) -> None:
        content = json.dumps(value).encode()
        self.core.apply(parse(content), now=time.monotonic(), wall=time.time())

    async def chat(self, value: object = CHAT, key: str | None = "sk-one", **headers) -> Answer:
        return await ask(self.port, PATH, value, key, **headers)

    async def get(self, path: str, key: str | None = "sk-one") -> Answer:
        return await fetch(self.port, path, key)

    async def client(self) -> Client:
        return await Client.connect(self.port)

    async def records(self, count: int) -> list[dict]:
        """Return the usage records once there are `count`."""
        await until(lambda: len(self._lines()) >= count)
        return [json.loads(line) for line in self._lines()]

    def _lines(self) -> list[bytes]:
        return self.log.read_bytes().splitlines() if self.log.exists() else []

    @property
    def deployment(self):
        return self.core.fleet.deployments["m"]

    def replica(self, name: str = "r1"):
        return self.deployment.replicas[name]

    async def is_quiet(self) -> bool:
        """True once nothing is held any more: no slot, no place, no load, no reservation."""
        await until(lambda: not self.core.open)
        deployment = self.deployment
        loads = [
            (r.in_flight, r.pending_tokens, r.streams, r.tally.in_flight)
            for r in deployment.replicas.values()
        ]
        uses = [use.in_flight for use in self.core.keys._use.values()]
        held = [deployment.tally.in_flight, deployment.queue.length, *uses]
        return not any(held) and set(loads) <= {(0, 0, 0, 0)}


async def until(claim: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for `claim` to hold; fail the test if it does not in time."""
    async with asyncio.timeout(seconds):
        while not claim():  # noqa: ASYNC110  what is claimed has no event of its own
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def gateway(
    folder: Path,
    value: dict,
    *,
    limits: Limits | None = None,
    deadlines: Deadlines | None = None,
    **settings: object,
) -> AsyncIterator[Harness]:
    """Run a gateway with the table `value`; check at the end that nothing leaked."""
    spool = Spool(folder / "usage.jsonl")
    core = Core(
        Settings(
            listen_host="127.0.0.1",
            listen_port=0,
            limits=limits or Limits(),
            deadlines=deadlines or Deadlines(),
            **settings,
        ),
        spool,
    )
    app = Gateway(core)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ClientConnection(app), "127.0.0.1", 0)
    harness = Harness(core, app, server.sockets[0].getsockname()[1], folder / "usage.jsonl")
    harness.apply(value)
    spool.start()
    tasks = [
        asyncio.create_task(watch_queues(core, period_seconds=0.01)),
        asyncio.create_task(sweep(core, app.clients, period_seconds=0.02)),
    ]
    try:
        yield harness
    finally:
        server.close()
        for request in list(core.open):
            request.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for deployment in core.fleet.deployments.values():
            for replica in deployment.replicas.values():
                replica.pool.close_idle()
        await spool.stop()
