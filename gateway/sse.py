"""Reads one server-sent event stream of an engine as it passes through. Pure.

Decides whether the answer is whole: only a finish reason without an error makes it so. A dying
vLLM sends an error chunk and then `[DONE]`; a sleep in mode abort ends it with finish reason
`abort`. Both look complete to a careless reader, so `[DONE]` is let through only after a real end.
Takes out the usage chunk that the gateway asked for and the client did not. Called by
`gateway.relay` with the raw body; ordinary chunks pass without being decoded.
"""

import re
from typing import Final

import msgspec

from gateway.call import Api
from gateway.shapes import EngineError, Event, Usage, decode_delta, decode_event

MOST_EVENT_BYTES = 8 * 1024 * 1024
"""An event larger than this is no event; the stream is broken off."""

_ORDINARY = {
    Api.CHAT: b'"finish_reason":null',
    Api.COMPLETIONS: b'"finish_reason":null',
}
"""Bytes that only a chunk in the middle holds. Inside a JSON string the quotes would be escaped, so
no text that a model writes can hold them."""

_ORDINARY_START = {
    Api.RESPONSES: b"event: response.output_text.delta\n",
    Api.MESSAGES: b"event: content_block_delta\n",
}
_NEWLINE: Final = 10
_RETURN: Final = 13
_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")
_ABORTED = "abort"


class StreamReader:
    """What one stream has shown so far."""

    __slots__ = (
        "_drop_running",
        "_drop_usage",
        "_ending",
        "_kind",
        "_mark",
        "_rest",
        "_rest_bytes",
        "_start",
        "chunks",
        "error",
        "is_done",
        "is_finished",
        "usage",
    )

    def __init__(self, api: Api, *, drop_usage: bool, drop_running: bool = False) -> None:
        self._kind = api
        self._mark = _ORDINARY.get(api) if not drop_running else None
        self._start = _ORDINARY_START.get(api)
        self._ending = b""
        """How a chunk that is one ordinary event of this stream ends, from the mark on; empty until
        such an event was seen."""
        self._drop_usage = drop_usage
        self._drop_running = drop_running
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self.chunks = 0
        """Events that carried output: what a broken stream's tokens are counted from."""
        self.is_finished = False
        """A finish reason was seen."""
        self.is_done = False
        """The stream said itself that it is over."""
        self.error: str | None = None
        """The engine's own words, for the log only."""
        self.usage: Usage | None = None

    @property
    def is_whole(self) -> bool:
        """True if the answer came to its proper end."""
        return self.is_finished and self.error is None and not b"".join(self._rest).strip()

    def is_next(self, chunk: bytes, start: int) -> bool:
        """Take in a framed chunk if it is one event that ends as the ordinary ones before it.

        Its content begins at `start`. Returns False if nothing was taken in.
        """
        ending = self._ending
        end = len(chunk) - len(ending)
        if not ending or self._rest or end < start or not chunk.endswith(ending):
            return False
        if _NEWLINE in chunk[start:end]:
            return False
        self.chunks += 1
        return True

    def feed(self, data: bytes) -> bytes:
        """Take in a piece of the stream; return what the client may see of it."""
        if not self._rest:
            ordinary = self._ordinary_events(data)
            if ordinary:
                self.chunks += ordinary
                return data
        return self._feed_slowly(data)

    def _ordinary_events(self, data: bytes) -> int:
        """Return how many events `data` is made of; 0 unless all are whole and ordinary."""
        first, end, others = data.partition(b"\n\n")
        if not end or _RETURN in data:
            return 0
        if not others:
            if not self._is_ordinary(first):
                return 0
            if self._mark is not None:
                self._ending = data[data.find(self._mark) :] + b"\r\n"
            return 1
        if not data.endswith(b"\n\n"):
            return 0
        events = data[:-2].split(b"\n\n")
        for event in events:
            if not self._is_ordinary(event):
                return 0
        return len(events)

    def _is_ordinary(self, event: bytes) -> bool:
        mark, start = self._mark, self._start
        if mark is not None:
            return event.find(mark) >= 0
        return start is not None and event.startswith(start)

    def _feed_slowly(self, data: bytes) -> bytes:
        self._rest.append(data)
        self._rest_bytes += len(data)
        if _NEWLINE not in data and self._rest_bytes <= MOST_EVENT_BYTES:
            return b""  # a long event in many pieces: searched once, when its end may be there
        data = b"".join(self._rest)
        passed, position = [], 0
        for event in _whole_events(data):
            position += len(event)
            passed.append(self._event(event))
        rest = data[position:]
        if len(rest) > MOST_EVENT_BYTES:
            self.error = self.error or f"an event of over {MOST_EVENT_BYTES} bytes"
            rest = b""
        self._rest = [rest] if rest else []
        self._rest_bytes = len(rest)
        return b"".join(passed)

    def _event(self, event: bytes) -> bytes:
        """Take in one whole event; return it, changed or empty, as the client may see it."""
        if self._has_failed() or self.is_done:
            return b""
        if self._is_ordinary(event):
            self.chunks += 1
            return event
        payload = _payload(event)
        if not payload:
            return event  # a comment: the engine's own keep-alive
        if payload == b"[DONE]":
            self.is_done = True
            return event if self.is_finished else b""
        try:
            seen = decode_event(payload)
        except msgspec.MsgspecError:
            return event  # not ours to judge: an event of a kind unknown here
        if seen.error is not None or seen.type in ("error", "response.failed"):
            self.error = _words(seen)
            return b""
        self._learn(seen)
        return b"" if self._has_failed() else self._without_usage(event, payload, seen)

    def _has_failed(self) -> bool:
        # A function: between two looks at the attribute mypy takes what it saw first for certain.
        return self.error is not None

    def _learn(self, seen: Event) -> None:
        for holder in (seen, seen.response, seen.message):
            if holder is not None and not isinstance(holder, str) and holder.usage is not None:
                self._merge(holder.usage)
        if seen.choices or seen.type.endswith("delta"):
            self.chunks += 1
        reasons = {choice.finish_reason for choice in seen.choices or ()} - {None, ""}
        if _ABORTED in reasons:
            self.error = "the engine aborted the request"
        elif reasons:
            self.is_finished = True
        else:
            self._learn_by_type(seen)

    def _learn_by_type(self, seen: Event) -> None:
        """Take in the end of a Responses or a Messages stream."""
        if seen.type in ("response.completed", "response.incomplete"):
            self.is_finished = True
        elif seen.type == "message_delta" and seen.delta:
            self.is_finished = bool(decode_delta(seen.delta).stop_reason)
        elif seen.type == "message_stop":
            self.is_done = True

    def _merge(self, usage: Usage) -> None:
        """Keep the newest count of each kind: Anthropic splits them over two events."""
        if self.usage is not None:
            for name in usage.__struct_fields__:
                if getattr(usage, name) is None:
                    setattr(usage, name, getattr(self.usage, name))
        self.usage = usage

    def _without_usage(self, event: bytes, payload: bytes, seen: Event) -> bytes:
        if seen.usage is None or self._kind not in _ORDINARY:
            return event
        if not seen.choices:
            return b"" if self._drop_usage else event
        if not self._drop_running:
            return event
        fields = msgspec.json.decode(payload)
        fields.pop("usage", None)
        return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def _whole_events(data: bytes) -> list[bytes]:
    """Return the whole events that `data` begins with, each with the empty line that ends it."""
    if _RETURN not in data:
        return [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]
    events, position = [], 0
    for end in _END_OF_EVENT.finditer(data):
        events.append(data[position : end.end()])
        position = end.end()
    return events


def _payload(event: bytes) -> bytes:
    """Return the joined `data` lines of `event`."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2:
        return event[6:].strip()
    lines = [
        line[5:].strip()
        for line in event.replace(b"\r\n", b"\n").split(b"\n")
        if line[:5] == b"data:"
    ]
    return b"\n".join(lines)


def _words(seen: Event) -> str:
    error = seen.error
    if isinstance(error, EngineError):
        return error.message or "the engine reported an error"
    return error or "the engine reported an error"
