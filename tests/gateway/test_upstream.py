"""One engine's answer, however the network cuts it into packets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.address import parse_url
from gateway.fields import only_chunk
from gateway.sink import UpstreamError
from gateway.upstream import Pool, UpstreamConnection

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Line:
    """A transport that only knows whether it is closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def abort(self) -> None:
        self.is_closed = True

    close = abort


class Taker:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.body = b""
        self.ends = 0
        self.errors: list[UpstreamError] = []

    def answer_began(self, status, headers) -> None:
        self.status = status

    def answer_data(self, data) -> None:
        self.body += data

    def answer_ended(self) -> None:
        self.ends += 1

    def answer_lost(self, error) -> None:
        self.errors.append(error)


def read(packets: list[bytes]) -> Taker:
    pool = Pool(parse_url("http://127.0.0.1:1"), api_key="", connect_seconds=1.0)
    connection, taker = UpstreamConnection(pool), Taker()
    connection.connection_made(Line())
    connection.begin(taker)
    for packet in packets:
        connection.data_received(packet)
    return taker


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(whole) + 1) for place in places}), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(edges) if a < b]


class TestPackets:
    @given(
        st.lists(st.binary(min_size=1, max_size=40) | st.just(b"1a\r\n"), max_size=6),
        st.lists(st.integers(min_value=0, max_value=10_000), max_size=12),
    )
    def test_any_cut_gives_the_same_body_and_one_end(self, pieces, places):
        taker = read(cut(HEAD + b"".join(map(framed, pieces)) + LAST, places))

        assert (taker.body, taker.ends, taker.errors) == (b"".join(pieces), 1, [])

    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    def test_a_packet_for_each_chunk_gives_the_same(self, pieces):
        taker = read([HEAD, *map(framed, pieces), LAST])

        assert (taker.body, taker.ends, taker.errors) == (b"".join(pieces), 1, [])

    def test_what_came_before_garbage_is_passed_on(self):
        taker = read([HEAD, framed(b"one"), framed(b"two") + b"zz\r\n"])

        assert taker.body == b"onetwo"
        assert len(taker.errors) == 1

    def test_the_size_of_a_chunk_may_come_in_two_packets(self):
        taker = read([HEAD, framed(b"one") + b"1", b"0\r\n" + b"x" * 16 + b"\r\n", LAST])

        assert (taker.body, taker.ends) == (b"one" + b"x" * 16, 1)


class TestOnlyChunk:
    @pytest.mark.parametrize(
        "data",
        [
            b"", b"\r\n", b"3\r\nab\r\n", b"3\r\nabcd\r\n", b"3\r\nabc", b"03\r\nabc\r\n",
            b"+3\r\nabc\r\n", b"3;x=1\r\nabc\r\n", b"0\r\n\r\n", b"A\r\n0123456789\r\n",
            b"3\r\nabc\r\n3\r\nabc\r\n",
        ],
    )  # fmt: skip
    def test_leaves_all_but_one_plain_chunk_to_the_parser(self, data):
        assert only_chunk(data) == 0

    def test_finds_the_content_of_one(self):
        chunk = b"a\r\n01234\r\n789\r\n"

        assert chunk[only_chunk(chunk) : -2] == b"01234\r\n789"


class TestPool:
    def test_closes_what_comes_back_after_its_replica_is_gone(self):
        pool = Pool(parse_url("http://127.0.0.1:1"), api_key="", connect_seconds=1.0)
        connection, line = UpstreamConnection(pool), Line()
        connection.connection_made(line)
        connection.begin(Taker())
        pool.retire()

        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        assert line.is_closed


class Noting(Taker):
    """A sink that asks of each piece whether it is the last."""

    def __init__(self, connection: UpstreamConnection) -> None:
        super().__init__()
        self.connection = connection
        self.were_last: list[bool] = []

    def answer_data(self, data) -> None:
        self.were_last.append(self.connection.is_last)


class TestLastPiece:
    @pytest.mark.parametrize(
        ("packets", "were_last"),
        [
            ([HEAD, framed(b"a"), framed(b"b") + LAST], [False, True]),
            ([HEAD, framed(b"a"), LAST], [False]),
        ],
    )
    def test_is_known_when_the_end_comes_with_it(self, packets, were_last):
        pool = Pool(parse_url("http://127.0.0.1:1"), api_key="", connect_seconds=1.0)
        connection = UpstreamConnection(pool)
        sink = Noting(connection)
        connection.connection_made(Line())
        connection.begin(sink)
        for packet in packets:
            connection.data_received(packet)

        assert (sink.were_last, sink.ends) == (were_last, 1)
