"""Reads HTTP of the plain shape that nearly all has, whole and strictly: heads and chunks. Pure.

A request or an answer of this shape never meets llhttp, which calls Python for every header.
Anything else, be it legal, doubtful or broken, is left to llhttp: what is read here is a part of
what llhttp accepts, read alike (a test holds both against each other). Called by `gateway.server`
and `gateway.upstream`.
"""

from typing import Final

_VISIBLE: Final = bytes(range(0x20, 0x7F))
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_TARGET: Final = b"/._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NOT_PLAIN: Final = (
    b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection", b"te", b"trailer",
)  # fmt: skip
"""Headers that change how the rest is read."""

_MOST_FIELDS: Final = 64
_MOST_LENGTH_DIGITS: Final = 9
_SHORTEST_REQUEST_LINE: Final = 15
_MOST_KNOWN: Final = 4096
_LONGEST_KNOWN_BYTES: Final = 256

_MOST_SIZE_DIGITS: Final = 7
"""Of a chunk that passes by the parser."""

_known: Final[dict[bytes, tuple[bytes, bytes]]] = {}
"""Name and value of header lines seen before: a client sends nearly the same ones each time."""

_targets: Final[dict[bytes, bytes]] = {}
"""Target by request line."""

_statuses: Final[dict[bytes, int]] = {}
"""Status by status line."""


class Head:
    """What stood in a head."""

    def __init__(self, target: bytes, status: int, fields: dict[bytes, bytes], length: int) -> None:
        self.target = target
        """Of a request, else empty."""
        self.status = status
        """Of an answer, else 0."""
        self.fields = fields
        """By names in lower case, none of them there twice."""
        self.length = length
        """Of the body, in bytes."""


def request_head(head: bytes) -> Head | None:
    """Return what stands in the head of a POST (without its empty line); None if not plain."""
    lines = head.split(b"\r\n")
    target = _targets.get(lines[0]) or _target(lines[0])
    found = _head(target, 0, lines) if target else None
    return found if found is not None and b"host" in found.fields else None


def answer_head(head: bytes) -> Head | None:
    """Return what stands in the head of a final answer that has a body; None if not plain."""
    lines = head.split(b"\r\n")
    status = _statuses.get(lines[0]) or _status(lines[0])
    return _head(b"", status, lines) if status else None


def _head(target: bytes, status: int, lines: list[bytes]) -> Head | None:
    """Return the head of `lines`; `target` or `status` is what was read of the first one."""
    fields = _fields(lines)
    if fields is None:
        return None
    length = _length(fields)
    return Head(target, status, fields, length) if length >= 0 else None


def _target(line: bytes) -> bytes:
    """Return the target of a request line; empty if the line is not plain."""
    if len(line) < _SHORTEST_REQUEST_LINE:
        return b""  # mypyc's slice of bytes fails where its end comes before its start
    target = line[5:-9]
    if line[:6] != b"POST /" or line[-9:] != b" HTTP/1.1" or target.translate(None, _TARGET):
        return b""
    if len(_targets) >= _MOST_FIELDS:
        _targets.clear()
    _targets[line] = target
    return target


def _status(line: bytes) -> int:
    """Return the status in a status line; 0 if it is not plain, or has no body."""
    status = line[9:12]
    if line[:9] != b"HTTP/1.1 " or line[12:13] != b" " or line.translate(None, _VISIBLE):
        return 0
    if not status.isdigit() or status < b"200" or status in (b"204", b"304"):
        return 0
    if len(_statuses) >= _MOST_FIELDS:
        _statuses.clear()
    number = _statuses[line] = int(status)
    return number


def _fields(lines: list[bytes]) -> dict[bytes, bytes] | None:
    count = len(lines)
    if count > _MOST_FIELDS:
        return None
    fields: dict[bytes, bytes] = {}
    place = 1
    while place < count:
        line = lines[place]
        field = _known.get(line)
        if field is None:
            field = _field(line)
            if field is None:
                return None
        name, value = field
        fields[name] = value
        place += 1
    return fields if len(fields) == count - 1 else None


def _field(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the name in lower case and the value; None if the line is not plain."""
    name, colon, value = line.partition(b":")
    name = name.lower()
    if not name or not colon or name in _NOT_PLAIN or name.translate(None, _TOKEN):
        return None
    if value.translate(None, _VISIBLE):
        return None
    field = (name, value.strip(b" "))
    if len(line) <= _LONGEST_KNOWN_BYTES:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[line] = field
    return field


def _length(fields: dict[bytes, bytes]) -> int:
    """Return the body's length; -1 unless it is plain and the connection stays open."""
    connection = fields.get(b"connection")
    if connection is not None and connection.lower() != b"keep-alive":
        return -1
    text = fields.get(b"content-length")
    if text is None or not 0 < len(text) <= _MOST_LENGTH_DIGITS:
        return -1
    length = 0
    for place in range(len(text)):
        digit = text[place]
        if not 48 <= digit <= 57:
            return -1
        length = length * 10 + digit - 48
    return length


def only_chunk(data: bytes) -> int:
    """Return where the content begins if `data` is exactly one chunk of a chunked body, else 0.

    The content ends two bytes before the end.
    """
    size, place, length = 0, 0, len(data)
    while place < length and place < _MOST_SIZE_DIGITS:
        digit = data[place]
        if 48 <= digit <= 57:
            size = size * 16 + digit - 48
        elif 97 <= digit <= 102:
            size = size * 16 + digit - 87
        else:
            break
        place += 1
    if size == 0 or data[0] == 48 or place + size + 4 != length:
        return 0
    if data[place] != 13 or data[place + 1] != 10 or not data.endswith(b"\r\n"):
        return 0
    return place + 2
