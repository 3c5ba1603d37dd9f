"""How simulated engines on several hosts find each other and end together, as vLLM's do.

The head listens where they are to meet until all others have come; then each watches the
connections. When one ends, so do all. Nothing of the model is passed: the head answers alone.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("hearth-simulator")

MEET_SECONDS = 300.0
"""For all to come; vLLM's own limit is torch's, ten minutes."""
RETRY_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of how many this engine is, and where they meet."""

    nodes: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29501


async def meet(place: Place, on_end: Callable[[], None]) -> None:
    """Return once all have come; `on_end` is called when one of the others has ended.

    Raises TimeoutError when they do not come in time, OSError when the head cannot listen.
    """
    async with asyncio.timeout(MEET_SECONDS):
        await (_host(place, on_end) if place.rank == 0 else _join(place, on_end))


async def _host(place: Place, on_end: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    all_here: asyncio.Future[None] = loop.create_future()
    ranks: set[str] = set()

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank = (await reader.readline()).decode().strip()
        ranks.add(rank)
        log.info("rank %s has joined: %d of %d", rank, len(ranks) + 1, place.nodes)
        if len(ranks) == place.nodes - 1 and not all_here.done():
            all_here.set_result(None)
        await _until_end(reader, f"rank {rank}", on_end)
        writer.close()

    await asyncio.start_server(welcome, place.address, place.port)
    log.info("Waiting for %d others at %s:%d", place.nodes - 1, place.address, place.port)
    await all_here


async def _join(place: Place, on_end: Callable[[], None]) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection(place.address, place.port)
            break
        except OSError:
            await asyncio.sleep(RETRY_SECONDS)
    writer.write(f"{place.rank}\n".encode())
    log.info("rank %d has joined the head at %s:%d", place.rank, place.address, place.port)
    watch = asyncio.create_task(_until_end(reader, "the head", on_end))
    watch.add_done_callback(lambda _: writer.close())


async def _until_end(reader: asyncio.StreamReader, who: str, on_end: Callable[[], None]) -> None:
    try:
        await reader.read()
    except OSError as error:
        log.debug("the connection to %s broke: %s", who, error)
    log.error("RuntimeError: %s has ended, and so does this engine", who)
    on_end()
