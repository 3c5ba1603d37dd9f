"""A client that costs little: keep-alive connections in a closed loop, or at a steady rate.

Counts answers, errors and the time to the first byte. Called by `bench.gateway.traffic`.
"""

import asyncio
import time
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What came back."""

    done: int = 0
    failed: int = 0
    first_byte_seconds: list[float] = field(default_factory=list)


class _Client(asyncio.Protocol):
    def __init__(self, load: "Load") -> None:
        self._load = load
        self._tail = b""
        self._body_left = -1
        self._first = True
        self._sent_at = 0.0
        self.is_open = True
        self.transport: asyncio.Transport

    def connection_made(self, transport) -> None:
        self.transport = transport

    def send(self) -> None:
        self._first, self._tail, self._body_left = True, b"", -1
        self._sent_at = time.perf_counter()
        self.transport.write(self._load.request())

    def data_received(self, data: bytes) -> None:
        if self._first:
            self._first = False
            self._load.tally.first_byte_seconds.append(time.perf_counter() - self._sent_at)
            if not data.startswith(b"HTTP/1.1 200"):
                self._load.tally.failed += 1
        if self._body_left < 0:
            self._tail += data
            end = self._tail.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._tail[:end].lower()
            at = head.find(b"content-length:")
            if at >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
                self._body_left = length - (len(self._tail) - end - 4)
            else:
                self._body_left = 1 << 60
            data = self._tail[end + 4 :]
            self._tail = b""
        else:
            self._body_left -= len(data)
        if self._body_left == 0:
            self._load.ended(self)
        elif self._body_left > 1 << 50:
            self._tail = (self._tail + data)[-5:]
            if self._tail == b"0\r\n\r\n":
                self._load.ended(self)

    def connection_lost(self, exc) -> None:
        self._load.lost(self)


class Load:
    """One run of requests against one address."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self._port = port
        self._requests = requests
        self._sent = 0
        self._limit = 0
        self._target = 0
        self._idle: list[_Client] = []
        self._loops = False
        self._over = asyncio.Event()
        self.tally = Tally()

    def request(self) -> bytes:
        """Return the next request's bytes."""
        self._sent += 1
        return self._requests[self._sent % len(self._requests)]

    async def closed_loop(self, count: int, connections: int) -> Tally:
        """Send `count` requests, `connections` at a time."""
        self._limit, self._loops, self.tally = self._sent + count, True, Tally()
        self._target = count
        self._over = asyncio.Event()
        clients = await self._connect(min(connections, count))
        for client in clients:
            client.send()
        await self._over.wait()
        self._close(clients)
        return self.tally

    async def steady(self, count: int, per_second: float, connections: int) -> Tally:
        """Send `count` requests at an even rate."""
        self._limit, self._loops, self.tally = self._sent + count, False, Tally()
        self._target = count
        self._over = asyncio.Event()
        clients = await self._connect(connections)
        self._idle = list(clients)
        begin = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, begin + number / per_second - time.perf_counter()))
            if self._idle:
                self._idle.pop().send()
            else:
                self.tally.failed += 1
                self._target -= 1
        await self._over.wait()
        self._close(clients)
        return self.tally

    async def _connect(self, count: int) -> list[_Client]:
        loop = asyncio.get_running_loop()
        return [
            (await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._port))[1]
            for _ in range(count)
        ]

    def _close(self, clients: list[_Client]) -> None:
        for client in clients:
            client.is_open = False
            client.transport.abort()

    def ended(self, client: _Client) -> None:
        """An answer is whole."""
        self.tally.done += 1
        if self._loops and self._sent < self._limit:
            client.send()
        else:
            self._idle.append(client)
        if self.tally.done >= self._target:
            self._over.set()

    def lost(self, client: _Client) -> None:
        """A connection broke."""
        if client.is_open:
            self.tally.failed += 1
            self._over.set()
