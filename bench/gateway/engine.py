"""A replica that costs as little as possible, so that the gateway in front is what is measured.

Answers a chat at once, or streams it in `chunks` packets (0: without end), all streams stepped by
one timer. Run as `python -m bench.gateway.engine CHUNKS STEP_MS [PIECES]`, with so many pieces to
a packet; prints its port when it listens.
"""

import asyncio
import sys

import uvloop

_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"' + b"word " * 60 + b'"},"logprobs":null,'
    b'"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":500,'
    b'"total_tokens":560,"completion_tokens":60,"prompt_tokens_details":{"cached_tokens":480}}}'
)
_PLAIN = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
) + _ANSWER
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk(text: bytes, reason: bytes) -> bytes:
    return _framed(
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
        b'"choices":[{"index":0,"delta":{"content":"' + text + b'"},"logprobs":null,'
        b'"finish_reason":' + reason + b"}]}\n\n"
    )


_PIECE = _chunk(b" word", b"null")
_LAST = _chunk(b"", b'"stop"')
_USAGE = _framed(
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[],"usage":{"prompt_tokens":500,"total_tokens":564,"completion_tokens":64,'
    b'"prompt_tokens_details":{"cached_tokens":480}}}\n\n'
)
_END = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_MODELS = b'{"object":"list","data":[{"id":"m","object":"model","max_model_len":8192}]}'


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self, streams: "dict[Engine, int]", chunks: int, packet: bytes) -> None:
        self._streams = streams
        self._chunks = chunks
        self._packet = packet
        self._is_paused = False
        self._data = b""
        self._wants_usage = False
        self.transport: asyncio.Transport

    def connection_made(self, transport) -> None:
        self.transport = transport

    def connection_lost(self, exc) -> None:
        self._streams.pop(self, None)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            whole = end + 4 + length
            body, self._data = self._data[end + 4 : whole], self._data[whole:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get /v1/models"):
            self.transport.write(_OK.replace(b" 2\r\n", b" %d\r\n" % len(_MODELS))[:-2] + _MODELS)
        elif head.startswith(b"get "):
            self.transport.write(_OK)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._wants_usage = b'"include_usage"' in body
            self.transport.write(_STREAM_HEAD)
            self._streams[self] = self._chunks
        else:
            self.transport.write(_PLAIN)

    def step(self) -> None:
        """Send the next packet."""
        if self._is_paused:
            return
        left = self._streams[self] - 1
        self._streams[self] = left
        if left > 1 or self._chunks <= 0:
            self.transport.write(self._packet)
        elif left == 1:
            self.transport.write(_LAST)
        else:
            del self._streams[self]
            self.transport.write((_USAGE if self._wants_usage else b"") + _END)


async def main(chunks: int, step_seconds: float, pieces: int) -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    streams: dict[Engine, int] = {}
    packet = _PIECE * pieces
    server = await loop.create_server(
        lambda: Engine(streams, chunks, packet), "127.0.0.1", 0, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        await asyncio.sleep(step_seconds)
        for engine in list(streams):
            engine.step()


if __name__ == "__main__":
    uvloop.run(
        main(
            int(sys.argv[1]),
            float(sys.argv[2]) / 1000,
            int(sys.argv[3]) if len(sys.argv) > 3 else 1,
        )
    )
