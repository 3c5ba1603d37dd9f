"""Stand-ins at the agent's doors: a runtime, an engine and the weights.

The engine is a small HTTP server on a real Unix socket, so that probes, scrapes and the relay run
as they do in production; the runtime starts and ends such servers and can be told to fail.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from agents.answers import Answers
from agents.engines.base import Place, StageMark
from agents.runtimes.base import Instance, Launch, OnProgress, RuntimeFault
from agents.standing import instance_name, labels
from agents.wire import (
    DesiredPhase,
    EngineKind,
    EngineSettings,
    EngineSpec,
    Lenders,
    Progress,
    ReplicaOrder,
    ReplicaSample,
    RuntimeKind,
    WeightsRef,
)


def order(
    replica_id: str = "r1", generation: int = 1, desired: DesiredPhase = DesiredPhase.RUNNING,
    *, start_timeout_seconds: float = 900.0, image: str = "", source: str = "wheel:m==1:m",
    dtype: str | None = None, settings: EngineSettings | None = None,
    weights: WeightsRef | None = None,
) -> ReplicaOrder:  # fmt: skip
    spec = EngineSpec(
        engine=EngineKind.VLLM,
        weights=weights or WeightsRef(key="m", source=source),
        served_names=("m",),
        image=image,
        settings=settings or EngineSettings(dtype=dtype),
        start_timeout_seconds=start_timeout_seconds,
    )
    return ReplicaOrder(
        replica_id=replica_id, deployment="d", generation=generation, desired=desired, spec=spec,
        stop_grace_seconds=0.1,
    )  # fmt: skip


class EngineServer:
    """Serves `/health`, `/metrics`, echoes paths, and streams `/v1/completions`."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.is_ready = asyncio.Event()
        self.is_healthy = True
        self.breaks_on: str | None = None
        """Path of the request after which it is not healthy any more."""
        self.broke = asyncio.Event()
        self.mute = False
        """Take requests and answer none."""
        self.gate = asyncio.Event()
        """A stream sends one chunk, then waits for this."""
        self.flood_bytes = 0
        """A stream sends this much without a pause, if set."""
        self.flooded_bytes = 0
        self.closed_by_client = asyncio.Event()
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self._asked = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.socket))

    async def close(self) -> None:
        """Listen no more; let go of every connection."""
        if self._server is not None:
            self._server.close()
            self.socket.unlink(missing_ok=True)
        await self.crash()

    async def crash(self) -> None:
        """Cut every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def until_asked(self) -> None:
        await self._asked.wait()

    async def until_stuck(self) -> None:
        """Wait until a flood goes no further."""
        before = -1
        while before != self.flooded_bytes:
            before = self.flooded_bytes
            await asyncio.sleep(0.1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (head := await _head(reader)) is not None:
                line, headers = head
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if headers.get("transfer-encoding") == "chunked":
                    body = await _chunks(reader)
                self.seen.append((line, headers, body))
                self._asked.set()
                if not self.mute:
                    await self._answer(line.split(" ")[1], reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed_by_client.set()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if path == "/v1/completions":
            await self._stream(reader, writer)
            return
        if path == self.breaks_on:
            self.is_healthy = False
            self.broke.set()
        status = 200 if self.is_ready.is_set() and self.is_healthy else 503
        text = "kv_tokens 5760\n" if path == "/metrics" else json.dumps({"path": path})
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        while self.flooded_bytes < self.flood_bytes:
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()
            self.flooded_bytes += 65536
        gone = asyncio.create_task(reader.read(1))
        gate = asyncio.create_task(self.gate.wait())
        await asyncio.wait({gone, gate}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            self.closed_by_client.set()
            return
        gone.cancel()
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")
        await writer.drain()


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    first, *rest = raw.strip().split("\r\n")
    return first, {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).strip(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


class FakeEngine:
    """An engine whose probe is its health."""

    kind = EngineKind.VLLM
    metrics_path = "/metrics"

    def default_image(self, device: str) -> str:
        return f"vllm/vllm-openai:{device}"

    def launch(self, order: ReplicaOrder, place: Place) -> Launch:
        if order.spec.settings.dtype == "nonsense":
            raise ValueError("dtype: nonsense is not one of auto, bfloat16")
        return Launch(
            name=instance_name(order), labels=labels(order, place.host_id),
            engine=self.kind, device="cpu", argv=(), env={}, run_dir=place.run_dir,
        )  # fmt: skip

    def read_line(self, line: str) -> StageMark | None:
        stage, _, rest = line.partition(" ")
        if stage not in ("import", "load", "warm-up"):
            return None
        return StageMark(stage=stage, seconds=float(rest) if rest else None)

    async def probe(self, client: httpx.AsyncClient, order: ReplicaOrder) -> bool:
        return await self.healthy(client)

    async def first_answers(self, client: httpx.AsyncClient, order: ReplicaOrder) -> Answers:
        await client.get("/first-answers")
        is_wrong = order.spec.settings.kv_cache_dtype == "turboquant_4bit_nc"
        return Answers(perplexity=19397.2 if is_wrong else 8.7)

    async def healthy(self, client: httpx.AsyncClient) -> bool:
        return (await client.get("/health")).status_code == 200

    def sample(self, replica_id: str, at: float, metrics: str) -> ReplicaSample:
        return ReplicaSample(replica_id=replica_id, at=at, running=1)

    def kv_cache_tokens(self, metrics: str) -> int | None:
        return int(metrics.split()[1])


@dataclass
class FakeRuntime:
    """Runs EngineServers. What it was asked stands in `calls`; faults are set in `faults`."""

    kind: RuntimeKind = RuntimeKind.PROCESS
    is_ready_at_once: bool = True
    instances: dict[str, Instance] = field(default_factory=dict)
    servers: dict[str, EngineServer] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    faults: dict[str, Exception] = field(default_factory=dict)
    """Method -> what it raises instead of doing its work."""
    after: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Method -> a fail point, reached when its work is done and before it returns."""
    holds: dict[str, asyncio.Event] = field(default_factory=dict)
    """Method -> it waits for this before it does its work."""
    now: Callable[[], float] = time.time

    async def prepare(self, engine: EngineKind, device: str, image: str, tell: OnProgress) -> str:
        await self._enter("prepare", "")
        tell(Progress(stage="engine", done=1, total=2))
        return "1.2.3"

    async def image_bytes(self, engine: EngineKind, device: str, image: str) -> int | None:
        return 5 << 30

    async def start(self, launch: Launch) -> Instance:
        await self._enter("start", launch.name)
        if launch.name not in self.instances:
            server = self.servers[launch.name] = EngineServer(launch.run_dir / "engine.sock")
            await server.open()
            if self.is_ready_at_once:
                server.is_ready.set()
            self.instances[launch.name] = Instance(
                name=launch.name, ref=f"ref-{len(self.calls)}", labels=launch.labels,
                running=True, started_at=self.now(),
            )  # fmt: skip
        self._leave("start")
        return self.instances[launch.name]

    async def find(self) -> list[Instance]:
        await self._enter("find", None)
        return list(self.instances.values())

    async def stop(self, instance: Instance, grace_seconds: float) -> Instance:
        await self._enter("stop", instance.name)
        ended = await self.end(instance.name, 0)
        self._leave("stop")
        return ended

    async def remove(self, instance: Instance) -> None:
        await self._enter("remove", instance.name)
        self.instances.pop(instance.name, None)
        self._leave("remove")

    async def log_tail(self, instance: Instance, lines: int) -> list[str]:
        return self.logs.get(instance.name, [])[-lines:]

    async def memory_bytes(self, instance: Instance) -> int | None:
        return 1 << 30

    async def end(self, name: str, exit_code: int, *, out_of_memory: bool = False) -> Instance:
        """Let the engine called `name` end by itself."""
        await self.servers[name].close()
        ended = replace(
            self.instances[name], running=False, exit_code=exit_code, out_of_memory=out_of_memory
        )
        self.instances[name] = ended
        return ended

    async def close(self) -> None:
        for server in self.servers.values():
            await server.close()

    def count(self, call: str) -> int:
        return sum(done.split(" ")[0] == call for done in self.calls)

    async def _enter(self, call: str, name: str | None) -> None:
        if name is not None:
            self.calls.append(f"{call} {name}".strip())
        if (hold := self.holds.get(call)) is not None:
            await hold.wait()
        if (fault := self.faults.get(call)) is not None:
            raise fault

    def _leave(self, call: str) -> None:
        if (fail_point := self.after.pop(call, None)) is not None:
            fail_point()


@dataclass
class FakeWeights:
    """Weights that are always here, unless `fault` is set."""

    folder: Path
    fault: RuntimeFault | None = None
    removed: list[str] = field(default_factory=list)

    def present(self, ref: WeightsRef) -> Path | None:
        return self.folder

    async def ensure(self, ref: WeightsRef, tell: OnProgress) -> Path:
        if self.fault is not None:
            raise self.fault
        return self.folder

    def borrow_from(self, lenders: Iterable[Lenders]) -> None:
        pass

    def lendable(self) -> dict[str, str]:
        return {}

    def origin(self, ref: WeightsRef) -> str:
        return "hf"

    def size_bytes(self, ref: WeightsRef) -> int:
        return 7

    async def remove(self, key: str) -> None:
        self.removed.append(key)
