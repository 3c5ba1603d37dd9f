"""Lines that begin answers: status, date, Retry-After. Called by `gateway.server`."""

import math
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from gateway.errors import Problem

_wall: Final[Callable[[], float]] = time.time
_REASONS = {int(status): status.phrase for status in HTTPStatus}


class _Beginnings:
    """The first lines of answers of this second, one for each status."""

    def __init__(self) -> None:
        self.second = 0.0
        self.date = b""
        self.lines: dict[int, bytes] = {}


_now: Final = _Beginnings()


def first_lines(status: int) -> bytes:
    """Return the status line and the Date header, formatted once a second."""
    wall = _wall()
    if not 0.0 <= wall - _now.second < 1.0:
        _now.second = float(math.floor(wall))
        _now.date = b"date: " + formatdate(_now.second, usegmt=True).encode() + b"\r\n"
        _now.lines = {}
    lines = _now.lines.get(status)
    if lines is None:
        reason = _REASONS.get(status, "Status").encode()
        lines = b"HTTP/1.1 %d %b\r\n%b" % (status, reason, _now.date)
        _now.lines[status] = lines
    return lines


def retry_after_line(problem: Problem) -> bytes:
    """Return the Retry-After header of `problem`, or nothing."""
    if problem.retry_after_seconds is None:
        return b""
    return b"retry-after: %d\r\n" % math.ceil(problem.retry_after_seconds)
