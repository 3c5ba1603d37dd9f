"""Plain heads are read by hand: never other than llhttp reads them, and nothing that it refuses."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fields import answer_head, request_head

PLAIN = [b"host: h", b"content-length: 3"]
START = b"POST /v1/chat/completions HTTP/1.1"


class Parsed:
    """What llhttp makes of one message."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.url = b""
        self.is_whole = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_message_complete(self) -> None:
        self.is_whole = True


def parsed(head: bytes, length: int) -> Parsed:
    """Return what llhttp reads of `head` and a body of `length`. Raises if it refuses them."""
    seen = Parsed()
    httptools.HttpRequestParser(seen).feed_data(head + b"\r\n\r\n" + b"x" * length)
    return seen


def head(*lines: bytes, start: bytes = START) -> bytes:
    return b"\r\n".join((start, *lines))


# Mostly plain lines with a stray byte, so that both sides of the border are met often.
STRAY = st.sampled_from(
    [b"", b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\xff", b"\x7f", b"\r\n", b","]
)
NAMES = st.sampled_from(
    [b"x-a", b"X-B", b"accept", b"content-length", b"Transfer-Encoding", b"host", b"connection"]
)
VALUES = st.sampled_from(
    [b"3", b"03", b"+3", b"0x3", b"3, 3", b"chunked", b"close", b"keep-alive", b"v"]
)
LINE = st.tuples(STRAY, NAMES, STRAY, st.sampled_from([b":", b": ", b" :", b""]), VALUES, STRAY)
STARTS = st.sampled_from(
    [START, b"POST /a HTTP/1.0", b"POST  /a HTTP/1.1", b"GET / HTTP/1.1", b"POST /a\tb HTTP/1.1",
     b"POST /a HTTP/1.1 ", b"post /a HTTP/1.1", b"POST http://h/ HTTP/1.1", b"POST /\xff HTTP/1.1"]
)  # fmt: skip


class TestRequestHead:
    @given(st.lists(LINE, max_size=4), STARTS, st.booleans())
    def test_takes_nothing_that_llhttp_reads_otherwise(self, odd, start, is_plain):
        lines = [b"".join(parts) for parts in odd]
        text = head(*(PLAIN if is_plain else PLAIN[:1]), *lines, start=start)

        found = request_head(text)

        if found is not None:
            seen = parsed(text, found.length)
            assert seen.is_whole
            assert seen.url == found.target
            assert dict(seen.fields) == found.fields
            assert len(seen.fields) == len(found.fields)

    @pytest.mark.parametrize(
        "line",
        [
            b"content-length: 3",
            b"Content-Length: 4",
            b"transfer-encoding: chunked",
            b"expect: 100-continue",
            b"upgrade: h2c",
            b"connection: close",
            b"connection: upgrade",
            b"host: other",
            b" folded",
            b"x-a : b",
            b"x-a: b\rc",
            b"x-a: b\nc: d",
            b"no colon",
            b": no name",
            b"x-a: \xff",
            b"",
        ],
    )
    def test_leaves_what_is_odd_to_llhttp(self, line):
        assert request_head(head(*PLAIN, line)) is None

    @pytest.mark.parametrize("lines", [PLAIN[:1], PLAIN[1:], [PLAIN[0], b"content-length: -1"]])
    def test_needs_a_host_and_one_length(self, lines):
        assert request_head(head(*lines)) is None

    def test_reads_the_heads_that_clients_send(self):
        lines = [b"Accept: application/json", b"Connection: keep-alive", b"X-Empty:", b"X-B: a: b "]

        found = request_head(head(*PLAIN, *lines))

        assert found is not None
        assert (found.target, found.length) == (b"/v1/chat/completions", 3)
        assert (found.fields[b"x-empty"], found.fields[b"x-b"]) == (b"", b"a: b")


class TestAnswerHead:
    def test_reads_the_heads_that_engines_send(self):
        found = answer_head(head(*PLAIN, start=b"HTTP/1.1 200 OK"))

        assert found is not None
        assert (found.status, found.length) == (200, 3)

    @pytest.mark.parametrize(
        "start",
        [b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue", b"HTTP/1.1 204 No Content", b"HTTP/1.1 200"],
    )
    def test_leaves_what_is_odd_to_llhttp(self, start):
        assert answer_head(head(*PLAIN, start=start)) is None

    def test_leaves_chunked_answers_to_llhttp(self):
        lines = [b"transfer-encoding: chunked", b"content-type: text/event-stream"]

        assert answer_head(head(*lines, start=b"HTTP/1.1 200 OK")) is None
