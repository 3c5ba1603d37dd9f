"""Streams at a steady rate from an asyncio client of its own: what an open loop of users does."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Streams:
    """Starts `rate` streamed chats each second, whether or not earlier ones have ended.

    A stream counts as failed when it got another status than 200, and as cut when it ended without
    a finish reason and `[DONE]`.
    """

    gateway: str
    key: str
    model: str
    rate: float = 50.0
    max_tokens: int = 8
    started: int = 0
    completed: int = 0
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    replicas: list[tuple[float, str]] = field(default_factory=list)
    """When (monotonic) an answer began, and from which replica."""

    def __enter__(self) -> "Streams":
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=60)

    @property
    def faults(self) -> list[str]:
        """All that went wrong; a story with none was not felt by anybody."""
        return self.failed + self.cut

    async def _run(self) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not self._over.is_set():
                due = int((time.monotonic() - began) * self.rate) + 1
                for _ in range(due - self.started):
                    self.started += 1
                    group.create_task(self._one())
                await asyncio.sleep(0.5 / self.rate)

    async def _one(self) -> None:
        try:
            async with asyncio.timeout(60):
                await self._ask()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.failed.append(repr(error))

    async def _ask(self) -> None:
        address = urlsplit(self.gateway)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(self._request())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = head.split(" ", 2)[1]
            if status != "200":
                self.failed.append(f"HTTP {status}: {(await reader.read(400))!r}")
                return
            self.replicas.append((time.monotonic(), _header(head, "x-hearth-replica")))
            self._judge(await reader.read())
        finally:
            writer.close()

    def _request(self) -> bytes:
        chat = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"Tell me about number {self.started}."}],
            "stream": True,
            "max_tokens": self.max_tokens,
        }
        body = json.dumps(chat).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _judge(self, body: bytes) -> None:
        if b'"finish_reason":"' in body.replace(b": ", b":") and b"data: [DONE]" in body:
            self.completed += 1
        else:
            self.cut.append(body[-300:].decode(errors="replace"))


def _header(head: str, name: str) -> str:
    for line in head.split("\r\n"):
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return ""
