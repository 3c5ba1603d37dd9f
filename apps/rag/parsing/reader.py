"""Have files read by a confined child, from the worker's and the web's side.

One `zygote` a process, started at first use and again when it died; it ends with its parent, whose
end of the socket closes then.
"""

import base64
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from apps.rag.parsing.confine import WALL_SECONDS

ANSWER_BYTES = 128 * 1024**2
"""More cannot come of `formats.MOST_CHARACTERS` characters."""
_ROOT = Path(__file__).resolve().parents[3]

type Box = Sequence[float]


class Unreadable(Exception):
    """The file cannot be read; `code` is a stable word, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reader:
    """A zygote and the way to it. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def read(self, file: IO[bytes], kind: str) -> tuple[list[str], list[dict[str, str]]]:
        """Return (pages, flags) of `file`. Raises Unreadable."""
        answer = self._ask(file, {"task": "read", "kind": kind})
        return answer["pages"], answer["flags"]

    def boxes(self, file: IO[bytes], page: int, passage: str) -> list[Box]:
        """Return where `passage` lies on a page of a PDF. Raises Unreadable."""
        order = {"task": "boxes", "page": page, "passage": passage[:20_000]}
        found: list[Box] = self._ask(file, order)["boxes"]
        return found

    def picture(self, file: IO[bytes], page: int) -> bytes:
        """Return a page of a PDF as a PNG. Raises Unreadable."""
        return base64.b64decode(self._ask(file, {"task": "picture", "page": page})["png"])

    def close(self) -> None:
        """End the zygote."""
        with self._lock:
            self._end()

    def _ask(self, file: IO[bytes], order: dict[str, Any]) -> dict[str, Any]:
        inlet, outlet = os.pipe()
        try:
            with self._lock:
                self._send(json.dumps(order).encode(), file.fileno(), outlet)
        finally:
            os.close(outlet)
        with os.fdopen(inlet, "rb", buffering=0) as answers:
            body = _all_of(answers, time.monotonic() + WALL_SECONDS + 5)
        if not body:
            raise Unreadable("took_too_long", "reading it takes too much time or memory; split it.")
        answer: dict[str, Any] = json.loads(body)
        if "code" in answer:
            raise Unreadable(answer["code"], answer["reason"])
        return answer

    def _send(self, order: bytes, source: int, outlet: int) -> None:
        for is_last in (False, True):
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._orders is not None
            try:
                socket.send_fds(self._orders, [order], [source, outlet])
            except OSError:
                self._end()
                if is_last:
                    raise
            else:
                return

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "apps.rag.parsing.zygote", str(theirs.fileno())],
            env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin", "MALLOC_ARENA_MAX": "2"},
            cwd=_ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._orders = ours

    def _end(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _all_of(pipe: IO[bytes], deadline: float) -> bytes:
    """Return what comes through `pipe` to its end; nothing when the deadline passes first."""
    parts: list[bytes] = []
    size = 0
    while (left := deadline - time.monotonic()) > 0 and size <= ANSWER_BYTES:
        if not select.select([pipe], [], [], left)[0]:
            break
        part = pipe.read(1024**2)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    return b""


reader = Reader()
"""This process's way to parsed files."""
