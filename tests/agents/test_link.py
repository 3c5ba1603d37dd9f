"""The way to the control plane: what each kind of answer, or none, means to the agent."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from agents.link import Backoff, Fenced, Link, Refused, Unreachable, Unwelcome
from agents.wire import EnrolRequest, Inventory, ReadReply, RuntimeKind, SyncRequest

SYNC = SyncRequest(session_id="s", wait_seconds=0.0)
REPLY = b'{"incarnation": "a", "revision": 1, "agent_epoch": 2}'


def link(answer: Callable[[httpx.Request], httpx.Response]) -> Link:
    return Link("http://cp", "secret", httpx.MockTransport(answer))


def always(status: int, body: bytes = b"") -> Callable[[httpx.Request], httpx.Response]:
    return lambda _request: httpx.Response(status, content=body)


class TestLink:
    async def test_sends_the_credential_and_decodes_the_answer(self) -> None:
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, content=REPLY)

        reply = await link(answer).sync(SYNC)

        assert reply is not None
        assert (reply.revision, reply.agent_epoch) == (1, 2)
        assert seen[0].headers["authorization"] == "Bearer secret"
        assert seen[0].url.path == "/agent/v1/sync"

    async def test_takes_no_content_for_nothing_new(self) -> None:
        assert await link(always(204)).sync(SYNC) is None

    @pytest.mark.parametrize(
        ("status", "body", "error"),
        [
            (401, b'{"detail": "unknown"}', Unwelcome),
            (403, b"", Unwelcome),
            (409, b'{"code": "fenced"}', Fenced),
            (500, b"<html>", Unreachable),
            (426, b'{"detail": "another release"}', Unreachable),
            (200, b"not json", Unreachable),
            (200, b'{"revision": "one"}', Unreachable),
        ],
    )
    async def test_tells_apart_what_the_agent_must_tell_apart(
        self, status: int, body: bytes, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            await link(always(status, body)).sync(SYNC)

    async def test_takes_a_dead_line_for_unreachable(self) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

        with pytest.raises(Unreachable, match="refused"):
            await link(answer).sync(SYNC)

    async def test_takes_a_socket_that_is_not_there_for_unreachable(self, tmp_path: Path) -> None:
        with pytest.raises(Unreachable):
            await Link(f"unix:{tmp_path}/none.sock").sync(SYNC)

    async def test_passes_on_why_an_enrolment_was_refused(self) -> None:
        inventory = Inventory(
            hostname="h", cpu_count=1, memory_total_bytes=1, memory_available_bytes=1,
            disk_total_bytes=1, disk_free_bytes=1, runtime=RuntimeKind.PROCESS,
        )  # fmt: skip
        request = EnrolRequest(token="t", host_name="h", install_id="i", inventory=inventory)
        body = b'{"code": "host_name_taken", "detail": "A host `h` exists already."}'

        with pytest.raises(Refused, match="A host `h` exists already"):
            await link(always(409, body)).enrol(request)

    async def test_lets_a_read_that_nobody_waits_for_be(self) -> None:
        await link(always(404)).reply(ReadReply(request_id="gone"), 1.0)

    async def test_never_makes_a_path_of_an_id(self) -> None:
        seen: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request.url.raw_path.decode())
            return httpx.Response(204)

        await link(answer).reply(ReadReply(request_id="../../admin?x"), 1.0)

        assert seen == ["/agent/v1/replies/..%2F..%2Fadmin%3Fx"]


class TestBackoff:
    def test_grows_up_to_its_cap(self) -> None:
        backoff = Backoff(1.0, 5.0, draw=lambda: 1.0)

        assert [backoff.next_seconds() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]

    def test_is_spread_over_half_of_each_rest(self) -> None:
        assert Backoff(8.0, 60.0, draw=lambda: 0.0).next_seconds() == 4.0

    def test_begins_anew_after_an_answer(self) -> None:
        backoff = Backoff(1.0, 60.0, draw=lambda: 1.0)
        backoff.next_seconds()
        backoff.next_seconds()

        backoff.reset()

        assert backoff.next_seconds() == 1.0
