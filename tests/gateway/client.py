"""A plain HTTP/1.1 client for tests: shows what came over the wire, and can misbehave."""

import asyncio
import json
from dataclasses import dataclass, field

DEADLINE_SECONDS = 8.0


@dataclass
class Answer:
    """One whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> dict:
        return self.json["error"]


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: dict[str, str] = field(default_factory=dict)
    _rest: bytes = b""

    @classmethod
    async def connect(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, path: str, value: object, key: str | None = "sk-one", **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = [f"POST {path} HTTP/1.1", "host: gateway", "content-type: application/json"]
        lines += [f"authorization: Bearer {key}"] if key else []
        lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
        lines += [f"content-length: {len(content)}", "", ""]
        self.send("\r\n".join(lines).encode() + content)

    def get(self, path: str, key: str | None = "sk-one") -> None:
        line = f"authorization: Bearer {key}\r\n" if key else ""
        self.send(f"GET {path} HTTP/1.1\r\nhost: gateway\r\n{line}\r\n".encode())

    async def head(self) -> Answer:
        async with asyncio.timeout(DEADLINE_SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        self.headers = headers
        return Answer(int(lines[0].split(" ")[1]), headers)

    async def answer(self) -> Answer:
        answer = await self.head()
        async with asyncio.timeout(DEADLINE_SECONDS):
            if answer.headers.get("transfer-encoding") == "chunked":
                answer.body = b"".join([piece async for piece in self.chunks()])
            else:
                length = int(answer.headers.get("content-length", 0))
                answer.body = await self.reader.readexactly(length)
        return answer

    async def chunks(self):
        while True:
            async with asyncio.timeout(DEADLINE_SECONDS):
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                data = await self.reader.readexactly(size + 2)
            if not size:
                return
            yield data[:-2]

    async def event(self) -> str:
        """Return the next event or comment of a stream, without its blank line."""
        while b"\n\n" not in self._rest:
            self._rest += await anext(self.chunks())
        event, _, self._rest = self._rest.partition(b"\n\n")
        return event.decode()

    async def is_closed(self) -> bool:
        """True once the gateway has closed, with nothing more to read."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.transport.abort()


async def ask(port: int, path: str, value: object, key: str | None = "sk-one", **headers: str):
    """Send one POST on a connection of its own; return the whole answer."""
    client = await Client.connect(port)
    client.post(path, value, key, **headers)
    try:
        return await client.answer()
    finally:
        client.close()


async def fetch(port: int, path: str, key: str | None = "sk-one") -> Answer:
    """Send one GET on a connection of its own; return the whole answer."""
    client = await Client.connect(port)
    client.get(path, key)
    try:
        return await client.answer()
    finally:
        client.close()


def events(body: bytes) -> list[str]:
    """Return the events of a whole stream."""
    return [event for event in body.decode().split("\n\n") if event]
