"""Carries one engine's answer to the client: gathered whole, or event by event.

A plain answer is held until it is whole (up to `GATHERED_BYTES`), so a replica that dies halfway
costs a retry and no error. A stream goes out as it comes; its first byte ends the right to retry.
Called by `gateway.exchange`, which owns attempts and the record; a relay owns the bytes of one
attempt.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.call import Endpoint
from gateway.fleet import Deployment, Replica
from gateway.server import ClientConnection
from gateway.shapes import Usage, decode_answer, decode_usage
from gateway.sink import Passage
from gateway.sse import StreamReader

GATHERED_BYTES = 1024 * 1024
"""A larger plain answer (thousands of embeddings) is passed on as it comes."""

TAIL_BYTES = 4096
"""How much of such an answer's end is kept: usage stands last."""

_USAGE: Final = b'"usage":'
_ABORT: Final = b'abort"'
_OPENING: Final = 123
_CLOSING: Final = 125
_monotonic: Final[Callable[[], float]] = time.monotonic


class Plain:
    """One JSON answer."""

    def __init__(
        self,
        client: ClientConnection,
        endpoint: Endpoint,
        status: int,
        *,
        head: tuple[int, bytes, bytes] | None,
    ) -> None:
        """`head` is status, content type and header lines.

        None: the client was sent a stream's head while it waited, so that the answer (a refusal by
        the engine, as a rule) becomes its last event.
        """
        self._client = client
        self._counts_tokens = endpoint.counts_tokens
        self._status, self._kind, self._extra = head or (status, b"", b"")
        self._as_event = head is None
        self._parts: list[bytes] = []
        self._size = 0
        self._tail = b""
        self.began = False
        """True once a byte of the engine's answer has gone to the client."""
        self.usage: Usage | None = None
        self.chunks = 0
        self.first_at = self.last_at = 0.0
        """When the first and the last piece came (monotonic); 0 = not yet."""
        self.error: str | None = None

    def data(self, content: bytes) -> None:
        """Take in a piece of the body."""
        self.last_at = _monotonic()
        if not self.first_at:
            self.first_at = self.last_at
        self._size += len(content)
        if self.began:
            self._tail = (self._tail + content)[-TAIL_BYTES:]
            self._client.send(content)
            return
        self._parts.append(content)
        if self._size > GATHERED_BYTES and not self._as_event:
            self.began = True
            whole = b"".join(self._parts)
            self._parts = []
            self._tail = whole[-TAIL_BYTES:]
            self._client.begin(self._status, kind=self._kind, extra=self._extra, first=whole)

    def end(self) -> str:
        """Pass the gathered answer on, unless its engine cut it short."""
        if self.began:
            self.usage = usage_at_end(self._tail)
            self._client.end()
            return ""
        content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._status < 300 and self._counts_tokens:
            problem = self._read(content)
            if problem:
                return problem
        self.began = True
        if self._as_event:
            event = b"event: error\ndata: " + content.replace(b"\n", b" ") + b"\n\n"
            self._client.end(last=event, close=True)
            return ""
        self._client.answer(self._status, content, kind=self._kind, extra=self._extra)
        return ""

    def _read(self, content: bytes) -> str:
        if len(content) > TAIL_BYTES and content.find(_ABORT) < 0:
            self.usage = usage_at_end(content)
            if self.usage is not None:
                return ""
        try:
            answer = decode_answer(content)
        except msgspec.MsgspecError:
            return ""  # not JSON as expected: passed on, and counted without tokens
        self.usage = answer.usage
        if any(choice.finish_reason == "abort" for choice in answer.choices):
            return "the engine aborted the request"
        return ""


def usage_at_end(tail: bytes) -> Usage | None:
    """Return the usage in the end of a JSON answer, where it stands last; None if it does not.

    Inside a JSON string its quotes would be escaped: no text that a model writes is taken for it.
    """
    found = tail.rfind(_USAGE)
    if found < 0:
        return None
    rest = tail[found + len(_USAGE) :]
    depth, place, length = 0, 0, len(rest)
    while place < length:
        byte = rest[place]
        place += 1
        if byte == _OPENING:
            depth += 1
        elif byte == _CLOSING:
            depth -= 1
            if depth == 0:
                break
    try:
        return decode_usage(rest[:place])
    except msgspec.MsgspecError:
        return None


class Streamed(Passage):
    """One stream of events."""

    def __init__(
        self,
        client: ClientConnection,
        reader: StreamReader,
        *,
        places: tuple[Deployment, Replica],
        head: tuple[int, bytes, bytes] | None,
    ) -> None:
        """`head` is status, content type and header lines; None if it was sent with comments."""
        self._client = client
        self._reader = reader
        deployment, replica = places
        self._replica = replica
        self._gaps, self._replica_gaps = deployment.tally.gaps, replica.tally.gaps
        self._status, self._kind, self._extra = head or (200, b"", b"")
        self.headed = head is None
        self.began = False
        self._last = b""
        """What goes out with the end."""
        self.first_at = self.last_at = 0.0

    @property
    def usage(self) -> Usage | None:
        """The engine's own count, if it came."""
        return self._reader.usage

    @property
    def chunks(self) -> int:
        """Events with output so far."""
        return self._reader.chunks

    @property
    def error(self) -> str | None:
        """What the engine said went wrong."""
        return self._reader.error

    def pass_on(self, chunk: bytes, start: int) -> bool:
        """Pass on a chunk that is the next ordinary event of a stream under way.

        Returns False if it is not: `data` looks closer.
        """
        if not self.began or not self._reader.is_next(chunk, start):
            return False
        self._note_time()
        self._client.send_chunk(chunk, start)
        return True

    def data(self, content: bytes, packet: bytes, *, is_last: bool = False) -> None:
        """Pass on what the client may see, and note the gap.

        `packet` is `content` framed as one chunk, if it came so, else empty. `is_last` says that
        `end` follows at once.
        """
        self._note_time()
        passed = self._reader.feed(content)
        if not passed:
            return
        if self.began and not is_last:
            self._client.send(passed, packet if passed is content else b"")
        elif self.headed and is_last and self._reader.is_whole:
            self.began = True
            self._last = passed
        else:
            self._send_first(passed)

    def _note_time(self) -> None:
        now = _monotonic()
        if self.first_at:
            gap_seconds = now - self.last_at
            self._gaps.observe(gap_seconds)
            self._replica_gaps.observe(gap_seconds)
        else:
            self.first_at = now
        self.last_at = now
        self._replica.heard_at = now

    def _send_first(self, passed: bytes) -> None:
        self.began = True
        if self.headed:
            self._client.send(passed)
            return
        self.headed = True
        self._client.begin(self._status, kind=self._kind, extra=self._extra, first=passed)

    def end(self) -> str:
        """End the stream if it is whole."""
        if self._reader.is_whole:
            self._client.end(last=self._last)
            return ""
        return self._reader.error or "the stream ended without a finish reason"
