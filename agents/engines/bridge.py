"""Put a Unix socket before an engine that only listens on a port.

`python -I -S bridge.py SOCKET PROGRAM ARGUMENT…`: takes a free loopback port, puts it where the
arguments say `{port}`, starts the program, and carries every connection of SOCKET to that port.
It ends with the program, with its exit code; a SIGTERM is the program's. Standard library only: it
runs in images too, where nothing else of Hearth is.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys

CHUNK_BYTES = 64 * 1024
CONNECT_SECONDS = 5.0


async def main(path: str, command: list[str]) -> int:
    """Run the program behind `path`; return its exit code."""
    port = _free_port()
    argv = [word.replace("{port}", str(port)) for word in command]
    program = await asyncio.create_subprocess_exec(*argv)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _tell, program, number)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _carry(reader, writer, port)

    server = await asyncio.start_unix_server(carry, path)
    os.chmod(path, 0o600)
    async with server:
        code = await program.wait()
    return code if code >= 0 else 128 - code


def _tell(program: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        program.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Carry one connection both ways until both sides are done, or one is lost."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            there, back = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        writer.transport.abort()  # not listening yet: to the caller as if nobody were there
        return
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pour(reader, back))
            both.create_task(_pour(there, writer))
    except* OSError:
        pass
    finally:
        for side in (back, writer):
            side.close()


async def _pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        target.write(data)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2:])))
