"""A control plane as the gateway sees it: table, live, usage; scripted, and it remembers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gateway.wire import Counts, Live, LiveReply, UsageAck, UsageBatch, decode, encode
from tests.gateway.upstream import Asked, Upstream

CREDENTIAL = "gw-secret"


class ControlPlane:
    """Answers as `/gateway/v1/` does."""

    def __init__(self, table: dict) -> None:
        self.table = table
        self.lives: list[Live] = []
        self.records: dict[str, dict] = {}
        self.batches = 0
        self.loses_acks = 0
        self.refuses: str = ""
        """Id of a record that it cannot store."""
        self.hosts: set[str] = set()
        self.changed = asyncio.Event()
        self.upstream = Upstream(self._answer)

    def put(self, table: dict) -> None:
        self.table = table
        self.changed.set()
        self.changed = asyncio.Event()

    def now(self, deployment: str) -> Counts:
        """Return the newest numbers of `deployment`."""
        return self.lives[-1].deployments.get(deployment, Counts()) if self.lives else Counts()

    async def _answer(self, asked: Asked) -> None:
        if asked.headers.get("authorization") != f"Bearer {CREDENTIAL}":
            await _reply(asked, b"{}", 401)
            return
        path = urlsplit(asked.path).path
        await getattr(self, "_" + path.removeprefix("/gateway/v1/"))(asked)

    async def _table(self, asked: Asked) -> None:
        query = parse_qs(urlsplit(asked.path).query)
        self.hosts.add(query["host"][0])
        if int(query["known"][0]) == self.table["revision"]:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), float(query["wait"][0]))
        await _reply(asked, json.dumps(self.table).encode())

    async def _live(self, asked: Asked) -> None:
        self.lives.append(decode(Live, asked.body))
        await _reply(asked, encode(LiveReply(accepted=True)))

    async def _usage(self, asked: Asked) -> None:
        batch = decode(UsageBatch, asked.body)
        self.batches += 1
        for place, record in enumerate(batch.records):
            if record.id == self.refuses:
                problem = {"detail": f"$.records[{place}].prompt_tokens: -1 is outside 0 to 2^53."}
                await _reply(asked, json.dumps(problem).encode(), 400)
                return
        before = len(self.records)
        for record in json.loads(asked.body)["records"]:
            self.records.setdefault(record["id"], record)
        if self.loses_acks:
            self.loses_acks -= 1
            asked.writer.transport.abort()
            return
        accepted = len(self.records) - before
        await _reply(asked, encode(UsageAck(batch_id=batch.batch_id, accepted=accepted)))


async def _reply(asked: Asked, content: bytes, status: int = 200) -> None:
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    asked.writer.write(head + content)
    await asked.writer.drain()


@contextlib.asynccontextmanager
async def control_plane(table: dict, unix: Path | None = None) -> AsyncIterator[ControlPlane]:
    plane = ControlPlane(table)
    await plane.upstream.start(unix=unix)
    try:
        yield plane
    finally:
        await plane.upstream.stop()
