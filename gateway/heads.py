"""Lines that begin answers: status, date, Retry-After. Called by `gateway.server`."""

import math
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import ClassVar

from gateway.errors import Problem

_REASONS = {int(status): status.phrase for status in HTTPStatus}


class _Clock:
    """The Date header, formatted once a second."""

    line: ClassVar[bytes] = b""
    second: ClassVar[int] = 0


def date_line() -> bytes:
    """Return the Date header."""
    second = int(time.time())
    if second != _Clock.second:
        _Clock.second = second
        _Clock.line = b"date: " + formatdate(second, usegmt=True).encode() + b"\r\n"
    return _Clock.line


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    return b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, "Status").encode())


def retry_after_line(problem: Problem) -> bytes:
    """Return the Retry-After header of `problem`, or nothing."""
    if problem.retry_after_seconds is None:
        return b""
    return b"retry-after: %d\r\n" % math.ceil(problem.retry_after_seconds)
