"""What gateways of one host tell each other, so that N processes choose almost as one.

Each process binds a Unix datagram socket in a common folder and sends to all others, every
`BATCH_SECONDS` if there is news: its own load on replicas, new prefix placements, and what keys
have used. Loads and uses are absolute, never differences, so a lost or repeated datagram is made
good by the next; a heartbeat repeats them all every second, and a peer that falls silent is
forgotten with its load. Private state per process would nearly double the time to first token
(docs/gateway.md, Several processes). Called by `gateway.program`.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path

import msgspec

from gateway.books import Books, Held, Place, Used
from gateway.core import Core
from gateway.fleet import Deployment, Replica

BATCH_SECONDS = 0.005
HEARTBEAT_SECONDS = 1.0
SILENT_SECONDS = 3.5
MOST_DATAGRAM_BYTES = 96 * 1024
"""Below the default socket buffer; longer news goes in several datagrams."""

_ENTRIES_AT_ONCE = 400
"""Loads or uses in one datagram of a heartbeat; names make each up to 200 bytes."""

_RECEIVES_AT_ONCE = 64
_BYTES_PER_BLOCK = 9
_SUFFIX = ".sock"

log = logging.getLogger("gateway.peers")


class Load(msgspec.Struct, array_like=True):
    """What one process holds on one replica."""

    in_flight: int = 0
    pending_tokens: int = 0
    streams: int = 0


class Use(msgspec.Struct, array_like=True):
    """What one process let one key use since it started, and what the key holds there now."""

    requests: int = 0
    tokens: int = 0
    in_flight: int = 0


class News(msgspec.Struct, array_like=True):
    """One datagram."""

    sender: str
    loads: list[tuple[str, str, Load]] = []
    uses: list[tuple[str, Use]] = []
    placed: list[tuple[str, str, list[int]]] = []
    is_leaving: bool = False


@dataclass(slots=True)
class _Peer:
    """Another process, as it described itself."""

    heard_at: float = 0.0
    loads: dict[Place, tuple[Replica, Load]] = field(default_factory=dict)
    uses: dict[str, Use] = field(default_factory=dict)


class Peers:
    """This process among the others of its host."""

    def __init__(self, core: Core, folder: Path) -> None:
        """Raises OSError if the folder cannot be used."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._core = core
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._peers: dict[str, _Peer] = {}
        self._addresses: list[str] = []
        self._news = asyncio.Event()
        self.books = Books(self._news.set)
        """What the others hear of this process."""
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(News).decode
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._address(self._file))

    @property
    def _file(self) -> str:
        return f"{self._name}{_SUFFIX}"

    def _address(self, file: str) -> str:
        """Name a socket by the open folder: a socket's path may have 107 bytes, no more."""
        return f"/proc/self/fd/{self._folder}/{file}"

    # --- Sending -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Talk with the others, for ever."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._receive)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat())
                while True:
                    await self._news.wait()
                    self._news.clear()
                    self._send_news()
                    await asyncio.sleep(BATCH_SECONDS)
        finally:
            loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Leave; the others forget this process's load at once."""
        self._send(News(self._name, is_leaving=True))
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file, dir_fd=self._folder)
        os.close(self._folder)

    async def _beat(self) -> None:
        while True:
            self._look_around()
            self._forget_own()
            if self._addresses:
                self._repeat_all()
            self._forget_silent(time.monotonic())
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _look_around(self) -> None:
        found = [
            self._address(file)
            for file in os.listdir(self._folder)
            if file.endswith(_SUFFIX) and file != self._file
        ]
        if len(found) != len(self._addresses):
            log.info("other gateways on this host: %d", len(found))
        self._addresses = found
        self.books.has_readers = bool(found)

    def _forget_own(self) -> None:
        """Drop what this process holds nothing of and the table names no more."""
        books, deployments, known_keys = self.books, self._core.fleet.deployments, self._core.keys
        books.held = {
            place: held
            for place, held in books.held.items()
            if held.in_flight
            or (place[0] in deployments and place[1] in deployments[place[0]].replicas)
        }
        books.uses = {
            key_id: use
            for key_id, use in books.uses.items()
            if use.in_flight or known_keys.knows(key_id)
        }
        books.changed &= books.held.keys()
        books.changed_uses &= books.uses.keys()

    def _repeat_all(self) -> None:
        """Say everything again: makes good what was lost, and shows that this process lives."""
        self._send(News(self._name))
        for loads in batched(self.books.held.items(), _ENTRIES_AT_ONCE):
            self._send(News(self._name, loads=[(*place, _load(held)) for place, held in loads]))
        for uses in batched(self.books.uses.items(), _ENTRIES_AT_ONCE):
            self._send(News(self._name, uses=[(key_id, _use(used)) for key_id, used in uses]))

    def _send_news(self) -> None:
        books = self.books
        changed, books.changed = books.changed, set()
        uses, books.changed_uses = books.changed_uses, set()
        placed, books.placed = books.placed, []
        if not self._addresses:
            return
        news = News(
            self._name,
            loads=[(*place, _load(books.held[place])) for place in changed],
            uses=[(key_id, _use(books.uses[key_id])) for key_id in uses],
        )
        for part in _parts(placed):
            news.placed = part
            self._send(news)
            news = News(self._name)

    def _send(self, news: News) -> None:
        data = self._encode(news)
        for address in self._addresses:
            try:
                self._socket.sendto(data, address)
            except (ConnectionRefusedError, FileNotFoundError):
                self._remove_dead(address)
            except OSError:
                continue  # its buffer is full: what is lost here is repeated by the heartbeat

    def _remove_dead(self, address: str) -> None:
        """A process that was killed leaves its socket behind."""
        with contextlib.suppress(OSError):
            os.unlink(address)

    # --- Receiving ---------------------------------------------------------------------------

    def _receive(self) -> None:
        for _ in range(_RECEIVES_AT_ONCE):
            try:
                data = self._socket.recv(2 * MOST_DATAGRAM_BYTES)
            except OSError:
                return
            with contextlib.suppress(msgspec.MsgspecError):
                self.take_in(self._decode(data), time.monotonic())

    def take_in(self, news: News, now: float) -> None:
        """Take over what a peer says of itself."""
        peer = self._peers.setdefault(news.sender, _Peer())
        peer.heard_at = now
        if news.is_leaving:
            self._forget(news.sender)
            return
        for deployment_name, replica_id, load in news.loads:
            deployment = self._core.fleet.deployments.get(deployment_name)
            replica = deployment.replicas.get(replica_id) if deployment else None
            if deployment is not None and replica is not None:
                self._set_load(peer, deployment, replica, load)
        for key_id, use in news.uses:
            self._set_use(peer, key_id, use, now)
        for deployment_name, replica_id, blocks in news.placed:
            deployment = self._core.fleet.deployments.get(deployment_name)
            if deployment is not None:
                deployment.prefixes.place(replica_id, blocks)

    def _set_load(self, peer: _Peer, deployment: Deployment, replica: Replica, load: Load) -> None:
        place = (deployment.name, replica.id)
        known, old = peer.loads.get(place, (None, Load()))
        if known is not replica:
            old = Load()
        replica.in_flight += load.in_flight - old.in_flight
        replica.pending_tokens += load.pending_tokens - old.pending_tokens
        replica.streams += load.streams - old.streams
        peer.loads[place] = (replica, load)
        if load.in_flight < old.in_flight:
            self._core.pump(deployment)

    def _set_use(self, peer: _Peer, key_id: str, use: Use, now: float) -> None:
        old = peer.uses.get(key_id)
        peer.uses[key_id] = use
        own = self._core.keys.use_of(key_id)
        if old is None:
            # What it used before this process met it is not of this minute, as a rule.
            own.in_flight += use.in_flight
            return
        own.in_flight += use.in_flight - old.in_flight
        requests, tokens = use.requests - old.requests, use.tokens - old.tokens
        if requests or tokens:
            own.used_elsewhere(requests, tokens, now)

    def _forget_silent(self, now: float) -> None:
        for name, peer in list(self._peers.items()):
            if now - peer.heard_at >= SILENT_SECONDS:
                self._forget(name)
            else:
                peer.loads = {at: held for at, held in peer.loads.items() if not held[0].is_gone}

    def _forget(self, name: str) -> None:
        """Take back all that the peer held."""
        peer = self._peers.pop(name)
        for replica, load in peer.loads.values():
            replica.in_flight -= load.in_flight
            replica.pending_tokens -= load.pending_tokens
            replica.streams -= load.streams
        for key_id, use in peer.uses.items():
            self._core.keys.use_of(key_id).in_flight -= use.in_flight
        for deployment in self._core.fleet.deployments.values():
            self._core.pump(deployment)


def _load(held: Held) -> Load:
    return Load(held.in_flight, held.pending_tokens, held.streams)


def _use(used: Used) -> Use:
    return Use(used.requests, used.tokens, used.in_flight)


def _parts(
    placed: list[tuple[str, str, list[int]]],
) -> list[list[tuple[str, str, list[int]]]]:
    """Split `placed` so that each part fits a datagram; at least one part, maybe empty."""
    parts: list[list[tuple[str, str, list[int]]]] = [[]]
    room = MOST_DATAGRAM_BYTES
    for deployment, replica, blocks in placed:
        needed = len(blocks) * _BYTES_PER_BLOCK + 600
        if needed > room and parts[-1]:
            parts.append([])
            room = MOST_DATAGRAM_BYTES
        parts[-1].append((deployment, replica, blocks))
        room -= needed
    return parts
