"""Counts the requests that an engine gets, by the process that sends them.

Stands between an engine's Unix socket and those who call it: the engine's socket is moved aside,
the tap listens in its place and passes bytes on. Connections that were open before keep going to
the engine unseen, so start it before the calls that are to be counted. Who calls is told by the
kernel (SO_PEERCRED). Used by `live`.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

_REQUEST = re.compile(rb"^(?:GET|POST|PUT|DELETE|HEAD) (\S+) HTTP/1\.[01]\r\n", re.M)
_CREDENTIALS = struct.Struct("3i")


@dataclass
class Tap:
    """Calls seen so far."""

    aside: Path
    calls: Counter[tuple[int, str]] = field(default_factory=Counter)
    """By process id and path."""
    _open: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on to the engine, counting its requests."""
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            await self._pass_on(reader, writer)
        finally:
            del self._open[task]

    async def close(self) -> None:
        """End every connection and wait until all is passed on."""
        for writer in self._open.values():
            writer.close()
        await asyncio.gather(*self._open)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = _caller(writer)
        engine_reader, engine_writer = await asyncio.open_unix_connection(str(self.aside))
        back = asyncio.create_task(_copy(engine_reader, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for path in _REQUEST.findall(data):
                    self.calls[caller, path.decode()] += 1
                engine_writer.write(data)
                await engine_writer.drain()
        engine_writer.close()
        await back


@contextlib.asynccontextmanager
async def tapped(address: Path) -> AsyncIterator[Tap]:
    """Count the calls to the engine at `address` while the block runs."""
    aside = address.with_suffix(".aside")
    address.rename(aside)  # noqa: ASYNC240 - one system call
    tap = Tap(aside)
    server = await asyncio.start_unix_server(tap.serve, str(address))
    try:
        yield tap
    finally:
        aside.rename(address)
        server.close()
        await tap.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _caller(writer: asyncio.StreamWriter) -> int:
    """Return the id of the process at the other end."""
    connection = writer.get_extra_info("socket")
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[0])
