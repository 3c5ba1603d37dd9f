"""One small question over a pool, awaited: for probes and for the control plane.

The hot path never comes here; it stays on callbacks.
"""

import asyncio
from dataclasses import dataclass

from gateway.sink import UpstreamError
from gateway.upstream import Pool, UpstreamConnection

MOST_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask."""

    method: str
    path: str
    body: bytes = b""


async def ask(
    pool: Pool, question: Question, *, timeout_seconds: float, fresh: bool = False
) -> tuple[int, bytes]:
    """Return status and body. Raises TimeoutError or UpstreamError.

    `fresh` takes a new connection even if one is idle.
    """
    asking = _Asking(pool, question, fresh=fresh)
    try:
        async with asyncio.timeout(timeout_seconds):
            await asking.done
    finally:
        asking.drop()
    return asking.status, b"".join(asking.parts)


class _Asking:
    """The state of one question (gateway.upstream.Sink)."""

    def __init__(self, pool: Pool, question: Question, *, fresh: bool) -> None:
        self._pool = pool
        self._question = question
        self._connection: UpstreamConnection | None = None
        self._may_repeat = True
        self._size = 0
        self.status = 0
        self.parts: list[bytes] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call_off = pool.open(self, fresh=fresh)

    def drop(self) -> None:
        """Cancel what is still under way."""
        if self.done.done() and not self.done.cancelled():
            return
        if self._connection is not None:
            self._connection.cancel()
        else:
            self._call_off()

    def connected(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        question = self._question
        fields = "content-type: application/json\r\n" if question.body else ""
        head = self._pool.head(question.method, question.path, fields, len(question.body))
        connection.send(head, question.body)

    def answer_began(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status

    def answer_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MOST_ANSWER_BYTES:
            self.parts.append(data)

    def answer_ended(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def answer_lost(self, error: UpstreamError) -> None:
        self._connection = None
        if error.was_reused and self._may_repeat:
            self._may_repeat = False
            self._call_off = self._pool.open(self, fresh=True)
        elif not self.done.done():
            self.done.set_exception(error)
