"""A gateway in front of engines that tell of their KV caches."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

from agents.wire import EVENTS_SOCKET, REPLAY_SOCKET
from gateway.kv_feed import follow_events
from gateway.prefix import Block, chain, seed_of
from tests.gateway.client import Answer
from tests.gateway.harness import Harness, gateway, table, until


def addresses(folder: Path) -> dict[str, str]:
    """Where the engine of `folder` tells."""
    return {
        "endpoint": f"ipc://{folder}/{EVENTS_SOCKET}",
        "replay_endpoint": f"ipc://{folder}/{REPLAY_SOCKET}",
    }


@contextlib.asynccontextmanager
async def exact(tmp_path: Path, *folders: Path, model: str) -> AsyncIterator[Harness]:
    """A gateway in front of the engines of `folders`; its own index never forgets."""
    replicas = [
        {"id": folder.name, "url": f"unix:{folder}/engine.sock", "kv_cache_tokens": 10**7,
         "kv_events": addresses(folder)}
        for folder in folders
    ]  # fmt: skip
    models = {"m": {"deployment": "m", "replicas": replicas, "upstream_name": model}}
    async with gateway(tmp_path, table(models)) as gw:
        feeds = asyncio.create_task(follow_events(gw.core))
        holdings = gw.deployment.residency._holdings
        try:
            await until(lambda: len(holdings) == len(folders) and all(
                holding.is_complete for holding in holdings.values()
            ))  # fmt: skip
            yield gw
        finally:
            feeds.cancel()
            await asyncio.gather(feeds, return_exceptions=True)


def cached(answer: Answer) -> int:
    """Return how many tokens the gateway took for cached when it chose."""
    return int(re.search(r"cached=(\d+)/", answer.headers["x-hearth-route"])[1])


def blocks_of(chat: dict, model: str) -> list[Block]:
    """Return the prefix hashes of a chat of the harness's key."""
    return chain(json.dumps(chat["messages"]).encode(), seed_of(f"\0\0{model}".encode()))
