"""Tells of the simulated KV cache over ZeroMQ, as vLLM does with `--kv-events-config`.

`CacheTeller` turns what the block pool does into vLLM's events: it knows the tokens of each block
from the requests that brought them. `Publisher` numbers the batches, sends them, and sends them
again to whoever asks. Source: vLLM 0.32, distributed/kv_events.py. Needs pyzmq.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from agents.simulator import tokens
from agents.simulator.blocks import BlockPool

if TYPE_CHECKING:
    pass

MOST_DESCRIBED = 200_000
"""Blocks whose tokens are remembered."""
_END = (-1).to_bytes(8, "big", signed=True)


class KvEventsConfig(msgspec.Struct, frozen=True):
    """The flag's value; vLLM's field names."""

    enable_kv_cache_events: bool = False
    publisher: str = "zmq"
    endpoint: str = ""
    replay_endpoint: str = ""
    buffer_steps: int = 10_000
    topic: str = ""


class _Content(msgspec.Struct, gc=False):
    parent: int | None
    data: bytes
    salt: str
    session: str


class CacheTeller:
    """Collects what the pool stores and gives up, and publishes it in batches."""

    def __init__(self, pool: BlockPool, block_tokens: int, publisher: "Publisher") -> None:
        self._block_tokens = block_tokens
        self._publisher = publisher
        self._contents: OrderedDict[int, _Content] = OrderedDict()
        self._events: list[dict[str, object]] = []
        pool.on_stored, pool.on_removed = self._stored, self._removed

    def describe(self, blocks: Sequence[int], data: bytes, salt: str, session: str) -> None:
        """Learn what `blocks` of the text `data` hold, and who brings them."""
        step = self._block_tokens * tokens.BYTES_PER_TOKEN
        for place, block in enumerate(blocks):
            self._contents[block] = _Content(
                blocks[place - 1] if place else None,
                data[place * step : (place + 1) * step],
                "" if place else salt,
                session,
            )
            self._contents.move_to_end(block)
        while len(self._contents) > MOST_DESCRIBED:
            self._contents.popitem(last=False)

    def tell(self, now: float) -> None:
        """Publish what has happened since the last call."""
        if self._events:
            self._publisher.publish(now, self._events)
            self._events = []

    def _stored(self, block: int) -> None:
        content = self._contents.get(block)
        if content is None:
            return
        self._events.append(
            {
                "type": "BlockStored",
                "block_hashes": [block],
                "parent_block_hash": content.parent,
                "token_ids": tokens.ids(content.data),
                "block_size": self._block_tokens,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "extra_keys": [[content.salt]] if content.salt else None,
                "group_idx": 0,
                "session_id": content.session or None,
            }
        )

    def _removed(self, block: int) -> None:
        self._events.append({"type": "BlockRemoved", "block_hashes": [block], "medium": "GPU"})


class Publisher:
    """Sends numbered batches to all who listen."""

    def __init__(self, config: KvEventsConfig) -> None:
        """Raises ImportError without pyzmq, zmq.ZMQError if an address cannot be taken."""
        import zmq.asyncio  # noqa: PLC0415 - only those who use it need it installed

        context = zmq.asyncio.Context.instance()
        self._topic = config.topic.encode()
        self._number = 0
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)
        self._events: zmq.sugar.socket.SyncSocket = zmq.Context.instance().socket(zmq.PUB)
        self._events.setsockopt(zmq.LINGER, 0)
        self._events.bind(config.endpoint)
        self._replay: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
        self._replay.linger = 0
        self._replay.bind(config.replay_endpoint)
        self._task = asyncio.get_running_loop().create_task(self._answer())

    def publish(self, at: float, events: list[dict[str, object]]) -> None:
        """Send one batch."""
        payload = msgspec.msgpack.encode([at, events, 0])
        number, self._number = self._number, self._number + 1
        self._buffer.append((number, payload))
        self._events.send_multipart([self._topic, number.to_bytes(8, "big"), payload])

    async def _answer(self) -> None:
        """Send old batches to whoever asks for them, for ever."""
        while True:
            who, _, first = await self._replay.recv_multipart()
            for number, payload in list(self._buffer):
                if number >= int.from_bytes(first, "big"):
                    parts = [who, b"", self._topic, number.to_bytes(8, "big"), payload]
                    await self._replay.send_multipart(parts)
            await self._replay.send_multipart([who, b"", b"", _END, b""])
