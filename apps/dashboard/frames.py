"""Frames of live numbers for the browsers: one snapshot, then numbered deltas, once a second.

One `Builder` serves all sockets of a process, so any number of open pages costs one read of the
numbers a second, and none is made while no page is open. A frame holds rows; a row is a list in
the order of its `*_FIELDS`. A delta holds only the rows that changed since the frame before, so a
page at rest gets `{"seq": n}`. A socket that falls behind skips frames: it asks for all changes
since the last it sent. Used by `consumers`; assumes that one event loop runs everything here.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from dataclasses import dataclass, field
from typing import Any

from agents.wire import HostSample
from apps.telemetry.numbers import FleetNumbers, Flow, ReplicaNumbers

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
KEPT_FRAMES = 60
"""A socket that was away for longer gets a snapshot."""

FLOW_FIELDS = (
    "in_flight",
    "queued",
    "output_tokens_per_second",
    "prompt_tokens_per_second",
    "ttft_p50_seconds",
    "ttft_p95_seconds",
    "chunk_gap_p50_seconds",
    "chunk_gap_p95_seconds",
    "prefix_cache_hit_ratio",
    "failed_per_second",
)
REPLICA_FIELDS = ("kv_cache_usage_ratio", "memory_bytes", "running", "waiting")
HOST_FIELDS = ("cpu_ratio", "memory_used_bytes", "disk_free_bytes")
GPU_FIELDS = ("memory_used_bytes", "utilization_ratio")

FIELDS = {
    "fleet": FLOW_FIELDS,
    "deployments": FLOW_FIELDS,
    "replicas": (*FLOW_FIELDS, *REPLICA_FIELDS),
    "hosts": (*HOST_FIELDS, "gpus"),
}

type Row = list[Any]
type Table = dict[str, Row | None]
"""Rows by name or id; None for one that is gone."""
type Tables = dict[str, Table]
"""`fleet`, `deployments`, `replicas`, `hosts`."""


@dataclass(frozen=True)
class Frame:
    """Numbers at one moment; `seq` rises by one a tick within an `epoch`."""

    epoch: str
    seq: int
    at: float
    tables: Tables
    whole: bool
    """A snapshot: what is not in it does not exist."""
    stale: bool

    def message(self, topic: str, replicas: Set[str] = frozenset()) -> dict[str, Any]:
        """Return what crosses to a page of `topic` that shows these replicas."""
        head = {"type": "snapshot" if self.whole else "delta", "epoch": self.epoch}
        about = {"fields": FIELDS} if self.whole else {}
        stale = {"stale": True} if self.stale else {}
        return {
            **head,
            "seq": self.seq,
            "at": round(self.at, 3),
            **about,
            **stale,
            **select(self.tables, topic, replicas),
        }


def select(tables: Tables, topic: str, replicas: Set[str]) -> Tables:
    """Return the part of `tables` that a page of `topic` shows; empty tables are left out."""
    kind, _, name = topic.partition(":")
    if kind == "deployment":
        wanted = {
            "deployments": _only(tables["deployments"], {name}),
            "replicas": _only(tables["replicas"], replicas),
        }
    else:
        names = {"overview": ("fleet", "deployments"), "deployments": ("deployments",)}
        chosen = {**names, "hosts": ("hosts",)}.get(kind, ())
        wanted = {table: tables[table] for table in chosen}
    return {table: rows for table, rows in wanted.items() if rows}


def _only(table: Table, names: Set[str]) -> Table:
    return {name: row for name, row in table.items() if name in names}


@dataclass
class Builder:
    """Reads the numbers while somebody watches, and remembers the last minute of changes."""

    read: Callable[[], Awaitable[FleetNumbers]]
    interval_seconds: float = INTERVAL_SECONDS
    epoch: str = field(default_factory=lambda: secrets.token_hex(6))
    seq: int = 0
    _tables: Tables = field(default_factory=lambda: {name: {} for name in FIELDS})
    _deltas: deque[Frame] = field(default_factory=lambda: deque(maxlen=KEPT_FRAMES))
    _at: float = 0.0
    _stale: bool = False
    _watchers: int = 0
    _task: asyncio.Task[None] | None = None
    _tick: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keep the numbers coming for as long as the block runs."""
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._watchers -= 1
            if self._watchers == 0:
                self._task.cancel()
                self._task = None

    async def next(self, epoch: str, seq: int) -> Frame:
        """Wait until there is something newer than frame `seq` of `epoch`, and return it."""
        while not self.seq or (epoch == self.epoch and seq >= self.seq):
            await self._tick.wait()
        return self.since(epoch, seq)

    def since(self, epoch: str, seq: int) -> Frame:
        """Return all changes after frame `seq` as one delta, or a snapshot when that is unknown."""
        missed = [delta for delta in self._deltas if delta.seq > seq]
        known = epoch == self.epoch and missed and missed[0].seq == seq + 1
        if not known:
            return self._frame(self._tables, whole=True)
        merged: Tables = {name: {} for name in FIELDS}
        for delta in missed:
            for name, rows in delta.tables.items():
                merged[name].update(rows)
        return self._frame(merged, whole=False)

    def add(self, numbers: FleetNumbers) -> None:
        """Make `numbers` the newest frame and wake everyone who waits for one."""
        new = tables_of(numbers)
        changed = {name: _changes(self._tables[name], rows) for name, rows in new.items()}
        self._tables, self._at, self._stale = new, numbers.at, numbers.stale
        self.seq += 1
        self._deltas.append(self._frame(changed, whole=False))
        self._tick.set()
        self._tick = asyncio.Event()

    def _frame(self, tables: Tables, *, whole: bool) -> Frame:
        return Frame(self.epoch, self.seq, self._at, tables, whole, self._stale)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                self.add(await self.read())
            except Exception:  # the one loop behind all pages: it logs and tries again
                logger.exception("live numbers not read")
            due = max(due + self.interval_seconds, loop.time())
            await asyncio.sleep(due - loop.time())


def tables_of(numbers: FleetNumbers) -> Tables:
    """Return the rows of all numbers."""
    return {
        "fleet": {"": _flow(numbers.total)},
        "deployments": {name: _flow(flow) for name, flow in numbers.deployments.items()},
        "replicas": {name: _replica(one) for name, one in numbers.replicas.items()},
        "hosts": {name: _host(sample) for name, sample in numbers.hosts.items()},
    }


def _changes(old: Table, new: Table) -> Table:
    changed: Table = {name: row for name, row in new.items() if old.get(name) != row}
    return {**changed, **dict.fromkeys(old.keys() - new.keys())}


def _flow(flow: Flow) -> Row:
    return [_short(getattr(flow, name)) for name in FLOW_FIELDS]


def _replica(one: ReplicaNumbers) -> Row:
    return [*_flow(one.flow), *(_short(getattr(one, name)) for name in REPLICA_FIELDS)]


def _host(sample: HostSample) -> Row:
    gpus = [[_short(getattr(gpu, name)) for name in GPU_FIELDS] for gpu in sample.gpus]
    return [*(_short(getattr(sample, name)) for name in HOST_FIELDS), gpus]


def _short(value: float | None) -> float | None:
    """Return `value` with four significant digits: more would cross for nothing."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
