"""The one door to Milvus: what the rest of the app may ask of it, and how it gets there.

`milvus` is the only module that imports pymilvus, and this one the only one that loads it, at first
use: it costs a second and 120 MB. With no `MILVUS_URI` the embedded Milvus Lite answers, which
takes an exclusive lock on its folder; so one process (`vectord`) holds it, on a Unix socket that
only this user may open, and `manage.py up` starts that process when the first caller rings.
"""

import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from django.conf import settings

from apps.lib.problems import Problem
from apps.rag import unpandas

FIRST_USE_SECONDS = 25.0
"""How long the embedded Milvus may take to come up when it is used for the first time."""
_LOOK_SECONDS = 0.05

type Vector = Sequence[float]


class VectorsAway(Exception):
    """Milvus does not answer; nothing was changed, or it can be done again without harm."""


class VectorsRefused(Exception):
    """Milvus answered with an error of its own; the message is its own."""


class NoSuchCollection(VectorsRefused):
    """The collection is not there."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What this Milvus can do, as probed."""

    version: str
    lexical: bool
    """It ranks words (BM25)."""
    aliases: bool
    index: str
    """Index type of the vectors: the first of HNSW, IVF_FLAT, FLAT that it builds."""
    embedded: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One chunk as Milvus holds it; the text itself stays in SQL."""

    id: int
    document: int
    words: str
    """Stemmed words, for BM25."""
    meta: dict[str, str | int | float | bool]
    vector: Vector | None


@dataclass(frozen=True, slots=True)
class Found:
    """One hit of one leg, best first."""

    id: int
    score: float
    """Cosine, or BM25 as a positive number."""


class Store(Protocol):
    """A connection to one Milvus. Every method may raise VectorsAway or VectorsRefused."""

    def capabilities(self) -> Capabilities: ...
    def create(self, collection: str, dimension: int | None) -> None: ...
    def upsert(self, collection: str, rows: Sequence[Row]) -> None: ...
    def delete_document(self, collection: str, document: int) -> None: ...
    def count(self, collection: str, document: int | None = None) -> int: ...
    def dense(self, collection: str, vector: Vector, limit: int, where: str) -> list[Found]: ...
    def lexical(self, collection: str, words: str, limit: int, where: str) -> list[Found]: ...
    def passes(self, collection: str, chunk: int, where: str) -> bool: ...
    def vectors(self, collection: str, ids: Sequence[int]) -> dict[int, Vector]: ...
    def point(self, alias: str, collection: str) -> None: ...
    def drop(self, collection: str) -> None: ...
    def collections(self) -> list[str]: ...


def away(error: VectorsAway) -> Problem:
    """Return what a caller is told while Milvus does not answer."""
    detail = f"Milvus does not answer, so nothing can be searched: {error}"
    return Problem(503, "vectors_away", detail, extra={"retry_after_seconds": 5})


def store() -> Store:
    """Return this process's connection. Raises VectorsAway when there is nobody to connect to."""
    if not settings.MILVUS_URI:
        _wake_embedded()
    return _connected(settings.MILVUS_URI or f"unix:{socket_path()}:0", settings.MILVUS_TOKEN)


@cache
def _connected(uri: str, token: str) -> Store:
    unpandas.load()
    made: Store = import_module("apps.rag.milvus").Milvus(uri, token)
    return made


def shown_address() -> str:
    """Return where Milvus is, for people: no token, no path of this machine."""
    return urlsplit(settings.MILVUS_URI).hostname or "embedded"


def socket_path() -> Path:
    """Return where the embedded Milvus listens."""
    return Path(settings.RUN_DIR) / "vectors.sock"


def ring_path() -> Path:
    """Return the named pipe on which `up` hears that the embedded Milvus is wanted."""
    return Path(settings.RUN_DIR) / "vectors.ring"


def _wake_embedded() -> None:
    """See that the embedded Milvus runs, started by `up` at its first use.

    A socket that is there but refuses is one that died: `up` brings it back by itself, and the
    caller is told so at once instead of being held.
    """
    listening = Path(f"{socket_path()}:0")
    if listening.exists():
        if _accepts(listening):
            return
        raise VectorsAway("the embedded Milvus is being started again.")
    _ring()
    deadline = time.monotonic() + FIRST_USE_SECONDS
    pause = threading.Event()
    while not (listening.exists() and _accepts(listening)):
        if time.monotonic() > deadline:
            raise VectorsAway("the embedded Milvus did not come up; see logs/vectors.log.")
        pause.wait(_LOOK_SECONDS)


def _ring() -> None:
    try:
        bell = os.open(ring_path(), os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        raise VectorsAway(
            "the embedded Milvus runs under `manage.py up` only; start that, or set MILVUS_URI."
        ) from error
    try:
        os.write(bell, b"1")
    except BlockingIOError:
        pass  # the pipe is full of rings that nobody has heard yet
    finally:
        os.close(bell)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
