"""The routing table: read, checked, kept on disk, and watched when it is a file.

A table that is wrong anywhere is refused whole, with the path of what is wrong; the last good one
stays. Called by `gateway.program`.
"""

import asyncio
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.address import parse_url
from gateway.router import ALPHAS, POLICIES
from gateway.wire import Detour, ModelRoute, ReplicaRoute, RoutingTable, decode, encode

WATCH_SECONDS = 0.25
_HEX_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_NAME = re.compile(r"[\x21-\x7e]{1,200}")

log = logging.getLogger("gateway.table")


class TableError(ValueError):
    """A routing table cannot be used; says what is wrong and where."""


def parse(content: bytes) -> RoutingTable:
    """Return the table in `content`. Raises TableError."""
    try:
        table = decode(RoutingTable, content)
    except msgspec.MsgspecError as error:
        raise TableError(str(error)) from error
    for name, route in table.models.items():
        _check_model(f"$.models[{name!r}]", route)
    for name, detour in table.detours.items():
        _check_detour(f"$.detours[{name!r}]", detour)
    for number, key in enumerate(table.keys):
        if not _HEX_SHA256.fullmatch(key.sha256):
            raise TableError(f"$.keys[{number}].sha256 is not 64 hex digits")
    return table


def _check_model(where: str, route: ModelRoute) -> None:
    if route.policy not in POLICIES:
        raise TableError(f"{where}.policy {route.policy!r} is none of {', '.join(POLICIES)}")
    if route.profile not in ALPHAS:
        raise TableError(f"{where}.profile {route.profile!r} is none of {', '.join(ALPHAS)}")
    if route.max_in_flight_per_replica < 1:
        raise TableError(f"{where}.max_in_flight_per_replica must be at least 1")
    if route.queue.size < 0 or route.queue.timeout_seconds < 0:
        raise TableError(f"{where}.queue: size and timeout_seconds must not be negative")
    for number, replica in enumerate(route.replicas):
        _check_replica(f"{where}.replicas[{number}]", replica)
    ids = [replica.id for replica in route.replicas]
    if len(set(ids)) < len(ids):
        raise TableError(f"{where}.replicas: an id is there twice in {', '.join(ids)}")


def _check_replica(where: str, replica: ReplicaRoute) -> None:
    if not _NAME.fullmatch(replica.id):
        raise TableError(f"{where}.id must be 1 to 200 printable characters without blanks")
    if replica.api_key and not _NAME.fullmatch(replica.api_key):
        raise TableError(f"{where}.api_key holds blanks, line breaks or over 200 characters")
    try:
        parse_url(replica.url)
    except ValueError as error:
        raise TableError(f"{where}.url: {error}") from error


def _check_detour(where: str, detour: Detour) -> None:
    if detour.url.startswith("/"):
        if not _NAME.fullmatch(detour.url):
            raise TableError(f"{where}.url holds blanks or over 200 characters")
        return
    try:
        parse_url(detour.url)
    except ValueError as error:
        raise TableError(f"{where}.url: {error}") from error


def load(path: Path) -> RoutingTable:
    """Return the table in `path`. Raises TableError, also if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(error.strerror or str(error)) from error
    return parse(content)


def keep(table: RoutingTable, path: Path) -> None:
    """Write `table` to `path` so that a reader sees the old one or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(encode(table))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class TableFile:
    """A routing table that someone else writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def load(self) -> RoutingTable:
        """Return the table as it is now. Raises TableError."""
        # Marked before it is read: a change in between is seen as one.
        self._seen = _mark(self.path)
        return load(self.path)

    async def watch(self, apply: Callable[[RoutingTable], None]) -> None:
        """Call `apply` with each new good table, for ever."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if _mark(self.path) == self._seen:
                continue
            try:
                apply(self.load())
            except TableError as error:
                log.error("%s: %s; the last good table stays", self.path, error)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
