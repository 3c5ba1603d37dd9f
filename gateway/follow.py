"""Follows the control plane's routing table by long poll; keeps the last good one on disk.

With the control plane away the table in force stays in force, and a restarted gateway begins with
the one on disk. Called by `gateway.program`.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from gateway.link import Link, LinkError
from gateway.table import TableError, keep, parse
from gateway.wire import RoutingTable

HOLD_SECONDS = 25.0
"""How long the control plane may hold the question."""

_SLACK_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_LEAST_PERIOD_SECONDS = 0.05
"""Between two questions, if the answers come at once."""

log = logging.getLogger("gateway.follow")


async def follow(
    link: Link, host_name: str, path: Path, apply: Callable[[RoutingTable], None], known: int
) -> None:
    """Call `apply` with each new table, for ever. `known` is the revision in force."""
    pause = _FIRST_PAUSE_SECONDS
    is_away = False
    while True:
        try:
            table = await _ask(link, host_name, known)
        except (LinkError, TableError, OSError) as error:
            if not is_away:
                log.warning("routing table: %s; the last good one stays", error)
            is_away = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            continue
        pause = _FIRST_PAUSE_SECONDS
        if is_away:
            log.info("routing table: the control plane is back")
            is_away = False
        if table is not None and table.revision != known:
            apply(table)
            known = table.revision
            _keep(table, path)
        await asyncio.sleep(_LEAST_PERIOD_SECONDS)


async def _ask(link: Link, host_name: str, known: int) -> RoutingTable | None:
    status, body = await link.get(
        f"/gateway/v1/table?known={known}&wait={HOLD_SECONDS:.0f}&host={quote(host_name)}",
        timeout_seconds=HOLD_SECONDS + _SLACK_SECONDS,
    )
    if status in (204, 304):
        return None
    if status != 200:
        raise LinkError(f"/gateway/v1/table: HTTP {status}")
    return parse(body)


def _keep(table: RoutingTable, path: Path) -> None:
    try:
        keep(table, path)
    except OSError as error:
        log.error("%s: %s; a restart would begin with an older table", path, error)
