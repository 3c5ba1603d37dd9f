"""Reading an engine's event stream as it passes through."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.call import Api
from gateway.meter import cached_of, output_of, prompt_of, reasoning_of
from gateway.shapes import Usage
from gateway.sse import StreamReader
from tests.gateway.upstream import chat_chunk, usage_chunk


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
WHOLE = (
    event(chat_chunk("a")) + b": keep-alive\n\n" + event(chat_chunk("b"))
    + event(chat_chunk("", "stop")) + event(usage_chunk(9, 2, 4)) + DONE
)  # fmt: skip


NEXT = event(chat_chunk("b"))
ENDING = event(chat_chunk("", "stop"))
PART = st.sampled_from(
    [NEXT, NEXT[:30], NEXT[30:], NEXT[:-1], b"\n", b"\r\n", b": x", DONE, ENDING]
)


def read(api: Api, *pieces: bytes, drop_usage: bool = True) -> tuple[StreamReader, bytes]:
    reader = StreamReader(api, drop_usage=drop_usage)
    return reader, b"".join(reader.feed(piece) for piece in pieces)


def counts(usage: Usage | None) -> tuple[int, int, int]:
    """Return the tokens of the prompt, the cached ones of them, and the output's."""
    assert usage is not None
    return prompt_of(usage), cached_of(usage), output_of(usage)


class TestStreamReader:
    @given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
    def test_sees_the_same_however_the_bytes_are_cut(self, cuts):
        marks = [0, *sorted(cuts), len(WHOLE)]
        pieces = [WHOLE[a:b] for a, b in itertools.pairwise(marks) if a < b]

        reader, passed = read(Api.CHAT, *pieces)

        assert passed == WHOLE.replace(event(usage_chunk(9, 2, 4)), b"")
        assert reader.is_whole
        assert reader.chunks == 3
        assert counts(reader.usage) == (9, 4, 2)

    def test_text_that_looks_like_protocol_changes_nothing(self):
        tricky = 'x "finish_reason":null "choices":[] "error" data: [DONE]\n\n'
        stream = event(chat_chunk(tricky)) + event(chat_chunk(tricky, "stop")) + DONE

        reader, passed = read(Api.CHAT, stream)

        assert passed == stream
        assert reader.is_whole

    @given(st.lists(PART, max_size=5), st.lists(PART, max_size=5))
    def test_takes_a_chunk_at_sight_only_where_a_closer_look_says_the_same(self, before, parts):
        start = b"".join(before) or NEXT
        (quick, _), (slow, _) = read(Api.CHAT, start), read(Api.CHAT, start)
        content = b"".join(parts)

        if quick.is_next(b"%07x\r\n%b\r\n" % (len(content), content), 9):
            assert slow.feed(content) == content
        assert slow.chunks == quick.chunks

    def test_takes_the_next_chunk_of_a_stream_at_sight(self):
        reader, _ = read(Api.CHAT, event(chat_chunk("a")))

        assert reader.is_next(b"%07x\r\n%b\r\n" % (len(NEXT), NEXT), 9)
        assert reader.chunks == 2

    @pytest.mark.parametrize("separator", [b"\r\n\r\n", b"\n\n"])
    def test_takes_either_line_end(self, separator):
        stream = WHOLE.replace(b"\n\n", separator)

        reader, _ = read(Api.CHAT, stream)

        assert reader.is_whole
        assert output_of(reader.usage) == 2

    @pytest.mark.parametrize(
        "stream",
        [
            event(chat_chunk("a")) + DONE,
            event(chat_chunk("a")) + event({"error": {"message": "dead", "code": 500}}) + DONE,
            event(chat_chunk("a")) + event({"error": "dead"}) + DONE,
            event(chat_chunk("a")) + event(chat_chunk("", "abort")) + DONE,
            event(chat_chunk("", "stop")) + b'data: {"half',
        ],
        ids=["no reason", "error object", "error text", "aborted", "half an event"],
    )
    def test_is_not_whole_and_not_done(self, stream):
        reader, passed = read(Api.CHAT, stream)

        assert not reader.is_whole
        assert DONE not in passed

    def test_nothing_passes_after_an_error(self):
        _, passed = read(Api.CHAT, event({"error": "x"}) + event(chat_chunk("late", "stop")) + DONE)

        assert passed == b""

    def test_an_endless_event_breaks_the_stream(self):
        reader, _ = read(Api.CHAT, *[b"x" * 1_000_000] * 9)

        assert "8388608 bytes" in reader.error

    def test_reads_responses(self):
        done = {"type": "response.completed", "response": {"usage": {
            "input_tokens": 7, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 3},
            "output_tokens_details": {"reasoning_tokens": 2}}}}  # fmt: skip
        delta = b"event: response.output_text.delta\n" + event(
            {"type": "response.output_text.delta", "delta": "hi"}
        )

        reader, passed = read(Api.RESPONSES, delta, b"event: response.completed\n" + event(done))

        assert reader.is_whole
        assert reader.chunks == 1
        usage = reader.usage
        assert (*counts(usage), reasoning_of(usage)) == (7, 3, 5, 2)
        assert passed.startswith(delta)

    def test_reads_messages(self):
        start = {"type": "message_start", "message": {"usage": {
            "input_tokens": 11, "output_tokens": 0, "cache_read_input_tokens": 8}}}  # fmt: skip
        delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}
        end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
               "usage": {"output_tokens": 4}}  # fmt: skip
        stream = b"".join(
            b"event: %b\n" % value["type"].encode() + event(value)
            for value in (start, delta, end, {"type": "message_stop"})
        )

        reader, passed = read(Api.MESSAGES, stream)

        assert passed == stream
        assert reader.is_whole
        assert counts(reader.usage) == (11, 8, 4)

    def test_a_failed_response_is_an_error(self):
        reader, _ = read(Api.RESPONSES, event({"type": "response.failed", "response": {}}))

        assert reader.error
