"""Usage records that survive the gateway: one open slot per admitted request, one log of ends.

An admission is written into a slot of a memory-mapped file before an engine is touched; the end of
the request goes into the same slot. The page cache keeps both over a `kill -9` without a system
call per request. A batch of ended slots is appended to the log, synced, and only then freed. At
start, slots that were left are appended too: ended ones as they are, open ones as `gateway_lost`.
Every step may be repeated: the log's tail is searched by id before a left slot is appended.

The slot file's blocks are allocated when it grows, so a full disk can neither kill the process
(SIGBUS) nor lose a record: the log stops, `is_accepting` turns false and new requests are refused
until an append works again. Called by `gateway.exchange` (admit, close), and by its own flush
task.
"""

import asyncio
import fcntl
import logging
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from gateway.shapes import decode_id
from gateway.wire import UsageRecord

SLOT_BYTES: Final = 2048
GROWTH_SLOTS = 512
FLUSH_SECONDS = 0.2
"""How long an ended record may wait for its batch to reach the log and the disk. A batch costs as
much CPU as seven requests, and delays those that come just then."""

RETRY_SECONDS = 1.0
"""Between attempts while the disk is full."""

_HEADER = struct.Struct("<BxHHH")
"""State; lengths of the open record, of the end, and of what begins both."""

_write_header: Final = _HEADER.pack_into
_FREE: Final = 0
_OPEN: Final = 1
_ENDED: Final = 2
_OPEN_AT: Final = 8
OPEN_BYTES: Final = 888
"""Most that an open record may have."""
_END_AT: Final = 896
END_BYTES: Final = 1152
"""Most that the end of a record may have."""
_TAIL_BYTES = 4 * 1024 * 1024
"""How much of the log is searched for records that a crash left both there and in a slot."""

log = logging.getLogger("gateway.spool")
_encode = msgspec.json.encode


class SpoolError(Exception):
    """The spool cannot be opened."""


class Spool:
    """The slot file and the log of one gateway process."""

    def __init__(self, log_path: Path, *, on_flush: Callable[[int], None] | None = None) -> None:
        self.log_path = log_path
        self._slots_path = log_path.with_name(log_path.name + ".open")
        self.on_flush = on_flush
        self._free: list[int] = []
        self._ended: list[int] = []
        """Slots of records that are not in the log yet."""
        self._lines: list[bytes] = []
        """What the log gets of each."""
        self._size_slots = 0
        self._is_full = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        """Held while a thread writes a batch."""
        self._task: asyncio.Task[None] | None = None
        self._slots_fd, self._log_fd = self._open_files()
        self._map = self._map_slots()
        self.open_count = 0
        """Requests admitted and not yet ended."""
        self.records_total = 0
        """Records appended since the start."""

    # --- The life of a request ---------------------------------------------------------------

    @property
    def is_accepting(self) -> bool:
        """False while a record might find no room."""
        return not self._is_full and (bool(self._free) or self._grow())

    def begin(self, beginning: bytes, lost: bytes) -> int:
        """Write an open record in two pieces, together at most `OPEN_BYTES`; return its slot.

        `lost` is the end that holds if no other comes. Ask `is_accepting` first.
        """
        slot = self._free.pop()
        self.open_count += 1
        payload = beginning + lost
        at = slot * SLOT_BYTES
        place = at + _OPEN_AT
        self._map[place : place + len(payload)] = payload
        _write_header(self._map, at, _OPEN, len(payload), 0, len(beginning))
        return slot

    def end(self, slot: int, beginning: bytes, end: bytes) -> None:
        """Write how the record of `slot` ended, in at most `END_BYTES`; `beginning` as before.

        The state changes last: never a torn record.
        """
        at = slot * SLOT_BYTES
        place = at + _END_AT
        self._map[place : place + len(end)] = end
        _write_header(self._map, at, _ENDED, 0, len(end), len(beginning))
        if not self._ended:
            self._wake.set()
        self._ended.append(slot)
        self._lines.append(b"%b%b\n" % (beginning, end))
        self.open_count -= 1

    def admit(self, record: UsageRecord) -> int:
        """Write `record` as open (its outcome: what it is if nothing more comes); return its slot.

        Ask `is_accepting` first.
        """
        return self.begin(b"", _fit(record, OPEN_BYTES))

    def close(self, slot: int, record: UsageRecord) -> None:
        """Write how the request of `slot` ended."""
        self.end(slot, b"", _fit(record, END_BYTES))

    # --- The flush ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write batches."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Write what is left and close the files."""
        async with self._writing:
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._append_ended()
        os.fsync(self._log_fd)
        self._map.close()
        os.close(self._slots_fd)
        os.close(self._log_fd)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_SECONDS if not self._is_full else RETRY_SECONDS)
            self._wake.clear()
            async with self._writing:
                batch, data = self._take_ended()
                # In a thread: the log's file system may let both wait, and no request should.
                if await loop.run_in_executor(None, self._append_synced, data):
                    self._release(batch)
                else:
                    self._put_back(batch, data)
            if self._ended:
                self._wake.set()

    def _append_ended(self, *, free: bool = True) -> list[int]:
        """Append the ended records to the log; return their slots, freed unless asked not to."""
        batch, data = self._take_ended()
        if not batch:
            return []
        if not self._append(data):
            self._put_back(batch, data)
            return []
        if free:
            self._release(batch)
        return batch

    def _take_ended(self) -> tuple[list[int], bytes]:
        """Take the slots of the ended records, and what the log gets of them."""
        batch, self._ended = self._ended, []
        lines, self._lines = self._lines, []
        return batch, b"".join(lines)

    def _put_back(self, batch: list[int], data: bytes) -> None:
        self._ended = batch + self._ended
        self._lines = [data, *self._lines]

    def _append_synced(self, data: bytes) -> bool:
        """Append all of `data` and sync it, or nothing; in a thread of its own."""
        if not data or not self._append(data):
            return False
        os.fdatasync(self._log_fd)
        return True

    def _append(self, data: bytes) -> bool:
        """Append all of `data` or nothing. Returns False if the disk has no room."""
        size = os.fstat(self._log_fd).st_size
        try:
            written = os.write(self._log_fd, data)
            if written < len(data):
                raise OSError("no room for the whole batch")
        except OSError as error:
            os.ftruncate(self._log_fd, size)
            if not self._is_full:
                log.error("usage log %s: %s; new requests are refused", self.log_path, error)
            self._is_full = True
            return False
        if self._is_full:
            log.warning("usage log %s: writing again", self.log_path)
        self._is_full = False
        return True

    def _read(self, slot: int) -> bytes:
        at = slot * SLOT_BYTES
        fields = _HEADER.unpack(self._map[at : at + _OPEN_AT])
        state, open_length, end_length, beginning_length = fields
        place = at + _OPEN_AT
        if state == _OPEN:
            return self._map[place : place + open_length]
        beginning = self._map[place : place + beginning_length]
        return beginning + self._map[at + _END_AT : at + _END_AT + end_length]

    def _release(self, slots: list[int]) -> None:
        for slot in slots:
            self._map[slot * SLOT_BYTES] = _FREE
        self._free += slots
        self.records_total += len(slots)
        if self.on_flush is not None:
            self.on_flush(len(slots))

    # --- Opening -----------------------------------------------------------------------------

    def _open_files(self) -> tuple[int, int]:
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            slots = os.open(self._slots_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(f"usage log {self.log_path}: {error.strerror or error}") from error
        try:
            fcntl.flock(slots, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            return slots, os.open(self.log_path, flags, 0o600)
        except BlockingIOError as error:
            os.close(slots)
            raise SpoolError(
                f"usage log {self.log_path} is in use by another gateway; give each its own"
            ) from error
        except OSError as error:
            os.close(slots)
            raise SpoolError(f"usage log {self.log_path}: {error.strerror or error}") from error

    def _map_slots(self) -> mmap.mmap:
        existing = os.fstat(self._slots_fd).st_size // SLOT_BYTES
        slots = max(GROWTH_SLOTS, existing)
        try:
            os.posix_fallocate(self._slots_fd, 0, slots * SLOT_BYTES)
        except OSError as error:
            raise SpoolError(f"{self._slots_path}: {error.strerror or error}") from error
        self._size_slots = slots
        self._map = mmap.mmap(self._slots_fd, slots * SLOT_BYTES)
        self._recover(existing)
        self._free = list(range(slots))
        return self._map

    def _recover(self, slots: int) -> None:
        """Append what a crash left in the slots, once each."""
        left = [slot for slot in range(slots) if self._map[slot * SLOT_BYTES] != _FREE]
        if not left:
            return
        known = self._tail_ids()
        records = [record for slot in left if _id_of(record := self._read(slot)) not in known]
        if records and not self._append(b"".join(record + b"\n" for record in records)):
            raise SpoolError(
                f"usage log {self.log_path}: no room on the disk for what a crash left"
            )
        os.fsync(self._log_fd)
        for slot in left:
            self._map[slot * SLOT_BYTES] = _FREE
        log.warning("%s: closed %d records that a crash left", self.log_path, len(records))

    def _tail_ids(self) -> set[str]:
        size = os.fstat(self._log_fd).st_size
        start = max(0, size - _TAIL_BYTES)
        lines = os.pread(self._log_fd, size - start, start).split(b"\n")
        if lines and lines[-1]:
            # A crash between write and sync of the machine itself can leave half a line.
            os.ftruncate(self._log_fd, size - len(lines[-1]))
        return {_id_of(line) for line in lines[:-1] if line}

    def _grow(self) -> bool:
        slots = self._size_slots + GROWTH_SLOTS
        try:
            os.posix_fallocate(self._slots_fd, 0, slots * SLOT_BYTES)
            self._map.resize(slots * SLOT_BYTES)
        except OSError as error:
            log.error("%s cannot grow: %s; new requests are refused", self._slots_path, error)
            return False
        self._free += range(self._size_slots, slots)
        self._size_slots = slots
        return True


def _id_of(line: bytes) -> str:
    try:
        return decode_id(line).id
    except msgspec.MsgspecError:
        return ""


def _fit(record: UsageRecord, room: int) -> bytes:
    """Return `record` as JSON of at most `room` bytes: long words are cut, numbers never."""
    payload = _encode(record)
    if len(payload) <= room:
        return payload
    short = msgspec.structs.replace(
        record,
        error=record.error[:64],
        model=record.model[:64],
        deployment=record.deployment[:64],
        replica=record.replica[:64],
        key_id=record.key_id[:64],
        parent_id=record.parent_id[:64],
    )
    return _encode(short)
