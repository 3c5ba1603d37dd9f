"""Sends usage records to the control plane: at least once, in order, acknowledged.

Reads the spool's log behind the offset that was acknowledged last; that offset lies beside the log.
The control plane drops records whose id it knows, so a batch may be sent twice. With the control
plane away the log grows and nothing is lost. A record that it names as impossible is set aside, so
that one bad line does not hold up all behind it. Called by `gateway.program`.
"""

import asyncio
import logging
import os
import re
from pathlib import Path

import msgspec

from gateway.link import Link, LinkError
from gateway.wire import PROTOCOL_VERSION, UsageAck, UsageRecord, decode

BATCH_RECORDS = 500
BATCH_BYTES = 512 * 1024
ROTATE_BYTES = 16 * 1024 * 1024
"""A log of this size is emptied once all of it is acknowledged."""

REFUSED_BYTES = 4 * 1024 * 1024
"""Most that the file of refused records may grow to; later ones are only logged."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 2.0
"""Usage is on the page within two seconds after the control plane is back."""

_ANSWER_SECONDS = 20.0
_BAD_REQUEST = 400
_NAMED = re.compile(rb"\$\.records\[(\d+)\]")
"""How the control plane names a record, by its place in the batch."""

log = logging.getLogger("gateway.ship")


class _RecordRefused(Exception):
    """The control plane can never store one record of a batch."""

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place


class Shipper:
    """The way of one log to the control plane."""

    def __init__(self, link: Link, gateway_id: str, log_path: Path) -> None:
        self._link = link
        self._gateway_id = gateway_id
        self._path = log_path
        self._ack_path = log_path.with_name(log_path.name + ".acked")
        self._refused_path = log_path.with_name(log_path.name + ".refused")
        self._offset = self._read_offset()
        self._wake = asyncio.Event()
        self._wake.set()
        self.waiting_records = self._count_waiting()

    def more(self, records: int) -> None:
        """The spool has appended `records`."""
        self.waiting_records += records
        self._wake.set()

    async def run(self) -> None:
        """Ship what comes, for ever."""
        pause = _FIRST_PAUSE_SECONDS
        is_away = False
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while await self.ship_batch():
                    pause, is_away = _FIRST_PAUSE_SECONDS, False
            except (LinkError, msgspec.MsgspecError, OSError) as error:
                if not is_away:
                    log.warning("usage: %s; %d records wait", error, self.waiting_records)
                is_away = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                self._wake.set()

    async def ship_batch(self) -> bool:
        """Send one batch. Returns False if nothing was left. Raises LinkError."""
        lines, end = self._next()
        if end == self._offset:
            return False
        records = [line for line in lines if self._is_record(line)]
        while records:
            try:
                await self._send(records)
                break
            except _RecordRefused as refusal:
                self._set_aside(records.pop(refusal.place), str(refusal))
        self._offset = end
        self.waiting_records = max(0, self.waiting_records - len(lines))
        self._write_offset()
        self._empty_if_long()
        return True

    async def _send(self, records: list[bytes]) -> None:
        batch_id = f"{self._gateway_id}-{self._offset}"
        body = msgspec.json.encode(
            {
                "protocol": PROTOCOL_VERSION,
                "gateway_id": self._gateway_id,
                "batch_id": batch_id,
                "records": [msgspec.Raw(record) for record in records],
            }
        )
        path = "/gateway/v1/usage"
        status, answer = await self._link.post(path, body, timeout_seconds=_ANSWER_SECONDS)
        if status != 200:
            reason = answer[:200].decode(errors="replace")
            named = _NAMED.search(answer) if status == _BAD_REQUEST else None
            if named and int(named[1]) < len(records):
                raise _RecordRefused(int(named[1]), reason)
            raise LinkError(f"{path}: HTTP {status}: {reason}")
        if decode(UsageAck, answer).batch_id != batch_id:
            raise LinkError(f"{path}: another batch was acknowledged")

    def _is_record(self, line: bytes) -> bool:
        try:
            decode(UsageRecord, line)
        except msgspec.MsgspecError as error:
            self._set_aside(line, str(error))
            return False
        return True

    def _set_aside(self, line: bytes, reason: str) -> None:
        """Keep a line that cannot be stored where a person finds it."""
        with self._refused_path.open("ab") as file:
            has_room = file.tell() + len(line) < REFUSED_BYTES
            if has_room:
                file.write(line + b"\n")
        where = str(self._refused_path) if has_room else "nowhere, that file is full"
        log.error("usage: a record cannot be stored (%s); kept in: %s", reason, where)

    def _next(self) -> tuple[list[bytes], int]:
        """Return the whole lines that come next, and the offset behind them."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read(BATCH_BYTES)
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)[:BATCH_RECORDS]
        return [line.rstrip(b"\n") for line in lines], self._offset + sum(map(len, lines))

    def _empty_if_long(self) -> None:
        """Empty a long log that is wholly acknowledged.

        The offset goes first: a crash between the two sends the log again, and loses nothing.
        """
        if self._offset < ROTATE_BYTES or self._path.stat().st_size != self._offset:
            return
        self._offset = 0
        self._write_offset()
        os.truncate(self._path, 0)

    def _read_offset(self) -> int:
        try:
            offset = int(self._ack_path.read_text())
            return offset if offset <= self._path.stat().st_size else 0
        except (OSError, ValueError):
            return 0

    def _write_offset(self) -> None:
        draft = self._ack_path.with_suffix(".new")
        with draft.open("w") as file:
            file.write(str(self._offset))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._ack_path)

    def _count_waiting(self) -> int:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
