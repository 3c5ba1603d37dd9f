"""What the embedded Milvus Lite 3.2.2 lacks to be shared and searched while it is written to.

Read in its source; `tests/apps/rag/test_steady.py` holds what is here to what it does:

- Rows that are not flushed cost a search more than those that are. They are flushed at 128 MB; here
  at 2 MB, and when a collection was left alone for a second.
- While a flush is under way its rows are in no list that a search reads, and a write at that moment
  is split between two logs. So a flush runs alone, and writes to one collection take turns.
- A flush that fails leaves its rows in the log alone, and the next one that does not deletes that
  log. So the process ends at once: its successor reads the log first.
- Two first callers at once open a collection twice. So opening takes turns.

What makes it fast is in `swift`. Loaded by `vectord` alone, before it serves. Milvus Lite is pinned
to this version.
"""

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from milvus_lite.db import MilvusLite
from milvus_lite.engine import collection as lite
from milvus_lite.engine.collection import Collection

MEMTABLE_BYTES = 2 * 1024 * 1024
"""About six hundred chunks with vectors of 384 numbers."""
STILL_SECONDS = 1.0
"""What was written is flushed when no write came for so long."""

_READS = ("search", "query", "get", "count")
_WRITES = (
    *("hearth_append", "insert", "upsert", "delete"),
    *("create_index", "load", "release", "close"),
)

FLUSH_FAILED = 3
"""Exit code of a process that could not flush."""

logger = logging.getLogger(__name__)


class Turns:
    """Who may do what on one collection: many readers, one writer beside them, a flush alone."""

    def __init__(self) -> None:
        self.writing = threading.RLock()
        self.written_at = time.monotonic()
        self._change = threading.Condition()
        self._readers = 0
        self._is_flushing = False
        self._mine = threading.local()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait for a flush to end, then hold off the next one. May be entered again inside."""
        depth = getattr(self._mine, "depth", 0)
        if not depth:
            with self._change:
                self._change.wait_for(lambda: not self._is_flushing)
                self._readers += 1
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            if not depth:
                with self._change:
                    self._readers -= 1
                    self._change.notify_all()

    @contextmanager
    def flushing(self) -> Iterator[None]:
        """Hold off new readers and wait for those that read; call it with `writing` held."""
        with self._change:
            self._is_flushing = True
            self._change.wait_for(lambda: not self._readers)
        try:
            yield
        finally:
            with self._change:
                self._is_flushing = False
                self._change.notify_all()


def turns_of(collection: Collection) -> Turns:
    """Return the turns of `collection`, the same for all threads."""
    made: Turns = collection.__dict__.setdefault("hearth_turns", Turns())
    return made


def install() -> None:
    """Change Milvus Lite in this process. Once, before a folder is opened."""
    lite.MEMTABLE_MEMORY_LIMIT = MEMTABLE_BYTES
    for name in _READS:
        setattr(Collection, name, _reads(getattr(Collection, name)))
    for name in _WRITES:
        setattr(Collection, name, _writes(getattr(Collection, name)))
    Collection._trigger_flush = _flushes(Collection._trigger_flush)
    opening = threading.RLock()
    open_one = MilvusLite.get_collection

    def get_collection(self: MilvusLite, *args: Any, **kwargs: Any) -> Collection:  # noqa: ANN401
        with opening:
            return open_one(self, *args, **kwargs)

    MilvusLite.get_collection = get_collection


def flush_still(held: MilvusLite, now: float) -> None:
    """Flush every open collection whose last write is `STILL_SECONDS` old. `now` is monotonic."""
    for collection in list(held._collections.values()):
        turns = turns_of(collection)
        if now - turns.written_at < STILL_SECONDS or not collection._memtable.size():
            continue
        with turns.writing:
            collection.flush()


def end_process() -> None:
    """End this process as it stands: nothing more may be written or deleted by it."""
    os._exit(FLUSH_FAILED)


def _reads(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def in_turn(self: Collection, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with turns_of(self).reading():
            return call(self, *args, **kwargs)

    return in_turn


def _writes(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def in_turn(self: Collection, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        turns = turns_of(self)
        with turns.writing:
            try:
                return call(self, *args, **kwargs)
            finally:
                turns.written_at = time.monotonic()

    return in_turn


def _flushes(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def alone(self: Collection, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        turns = turns_of(self)
        with turns.writing, turns.flushing():
            try:
                return call(self, *args, **kwargs)
            except Exception:
                logger.exception("%s could not be flushed; begin again from the log", self.name)
                end_process()
                raise

    return alone
