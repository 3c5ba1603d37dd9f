"""What each replica's engine says it holds, and which text that is: the exact mode of the index.

The gateway hashes text, an engine hashes tokens. They are brought together without a tokenizer: a
request carries its id to the engine as `x-session-id`, the engine names it in the events of the
blocks that the request stored, and the length of the prompt in tokens, known at the request's end,
says which block each part of the text ends in. From then on the text's own hashes lead to blocks,
and the engine's events say on which replicas these are. Blocks are known by hashes of their tokens
made here, so replicas need not hash alike.

What a request in flight asked for counts as held by its replica: the engine cannot evict it. Text
that leads to no block yet, and replicas whose events are not known from the first on, are left to
the gateway's own index. Pure; called by `gateway.prefix`, `gateway.exchange` and `gateway.kv_feed`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from gateway.kv_events import Cleared, EngineHash, Event, Removed, Stored
from gateway.prefix import BLOCK_BYTES, Block

MOST_TEXTS = 100_000
"""Text blocks whose place is remembered: 50 MB of text."""
MOST_SETTLING = 1024
"""Ended requests whose last events may still come."""

type Key = int
_ROOT: Key = 0
"""Before the first block: held everywhere."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a text block ends: in the engine's block `key`, after `depth` text blocks' worth."""

    key: Key
    depth: float


class Asked(msgspec.Struct, gc=False):
    """One request whose blocks are being learned."""

    replica: str
    blocks: Sequence[Block]
    keys: list[Key]
    """Of the blocks it stored, in the order of its text."""
    block_size: int = 0
    text_bytes: int = 0
    prompt_tokens: int = 0
    """0 until it ended."""


class Holding:
    """What one replica holds."""

    def __init__(self) -> None:
        self.is_complete = False
        """All events since the engine's start are known, and they still come."""
        self.keys: dict[EngineHash, Key] = {}
        self.parents: dict[Key, Key] = {}
        self.counts: dict[Key, int] = {}
        """Copies: on the device and in host memory."""

    def clear(self) -> None:
        """Drop everything."""
        self.keys.clear()
        self.parents.clear()
        self.counts.clear()

    def store(self, event: Stored) -> list[Key]:
        """Take in stored blocks; return their keys, none if what they follow is not known."""
        parent = _ROOT if event.parent is None else self.keys.get(event.parent)
        if parent is None:
            return []
        keys, size = [], event.block_size
        for number, engine_hash in enumerate(event.hashes):
            tokens = tuple(event.token_ids[number * size : (number + 1) * size])
            extra = event.extra_keys[number] if number < len(event.extra_keys) else None
            key = hash((parent, tokens, repr(extra) if extra else ""))
            self.keys[engine_hash] = key
            self.parents[key] = parent
            self.counts[key] = self.counts.get(key, 0) + 1
            keys.append(key)
            parent = key
        return keys

    def remove(self, event: Removed) -> None:
        """Take out one copy of each block."""
        for engine_hash in event.hashes:
            key = self.keys.get(engine_hash)
            if key is None:
                continue
            left = self.counts.get(key, 0) - 1
            if left > 0:
                self.counts[key] = left
                continue
            del self.keys[engine_hash]
            self.counts.pop(key, None)
            self.parents.pop(key, None)

    def holds(self, place: Place) -> bool:
        """Return whether all up to `place` is there."""
        return place.key == _ROOT or place.key in self.counts

    def before(self, key: Key) -> list[Key]:
        """Return the keys that lead to `key`, from the first on, `key` left out."""
        chain = []
        while (key := self.parents.get(key, _ROOT)) != _ROOT:
            chain.append(key)
        chain.reverse()
        return chain


class Residency:
    """The exact knowledge of one deployment."""

    def __init__(self) -> None:
        self._holdings: dict[str, Holding] = {}
        self._texts: OrderedDict[Block, Place] = OrderedDict()
        self._asked: dict[str, Asked] = {}
        self._settling: OrderedDict[str, Asked] = OrderedDict()
        self._in_flight: dict[str, dict[Block, int]] = {}

    # --- Events ------------------------------------------------------------------------------

    def reset(self, replica: str) -> None:
        """Nothing is known of `replica` any more: its own index counts until `complete`."""
        self._holdings[replica] = Holding()

    def complete(self, replica: str, *, is_complete: bool) -> None:
        """Say whether all events of `replica` are known."""
        self._holdings.setdefault(replica, Holding()).is_complete = is_complete

    def forget(self, replica: str) -> None:
        """`replica` is gone."""
        self._holdings.pop(replica, None)
        self._in_flight.pop(replica, None)

    def apply(self, replica: str, events: Sequence[Event]) -> None:
        """Take in events of `replica`, in the engine's order."""
        holding = self._holdings.setdefault(replica, Holding())
        for event in events:
            if isinstance(event, Stored):
                keys = holding.store(event)
                if keys and event.session:
                    self._note(replica, holding, event, keys)
            elif isinstance(event, Removed):
                holding.remove(event)
            elif isinstance(event, Cleared):
                holding.clear()

    def _note(self, replica: str, holding: Holding, event: Stored, keys: list[Key]) -> None:
        asked = self._asked.get(event.session) or self._settling.get(event.session)
        if asked is None or asked.replica != replica:
            return
        if not asked.keys:
            asked.keys = holding.before(keys[0])
            asked.block_size = event.block_size
        asked.keys += keys
        if asked.prompt_tokens:
            self._learn(asked)

    # --- Requests ----------------------------------------------------------------------------

    def began(self, request_id: str, replica: str, blocks: Sequence[Block]) -> None:
        """A request went to `replica`."""
        self._asked[request_id] = Asked(replica, blocks, [])
        counts = self._in_flight.setdefault(replica, {})
        for block in blocks:
            counts[block] = counts.get(block, 0) + 1

    def ended(self, request_id: str, text_bytes: int, prompt_tokens: int) -> None:
        """It left its replica; `prompt_tokens` is the engine's count, 0 if that never came."""
        asked = self._asked.pop(request_id, None)
        if asked is None:
            return
        counts = self._in_flight.get(asked.replica, {})
        for block in asked.blocks:
            left = counts.get(block, 0) - 1
            if left > 0:
                counts[block] = left
            else:
                counts.pop(block, None)
        if not (prompt_tokens and text_bytes and asked.blocks):
            return
        asked.text_bytes, asked.prompt_tokens = text_bytes, prompt_tokens
        self._settling[request_id] = asked
        if len(self._settling) > MOST_SETTLING:
            self._settling.popitem(last=False)
        if asked.keys:
            self._learn(asked)

    def _learn(self, asked: Asked) -> None:
        """Note in which of the engine's blocks each block of the text ends."""
        per_block = asked.prompt_tokens * BLOCK_BYTES / asked.text_bytes
        whole = min(len(asked.keys), asked.prompt_tokens // asked.block_size)
        for number, block in enumerate(asked.blocks, 1):
            place = min(int(number * per_block) // asked.block_size, whole)
            key = asked.keys[place - 1] if place else _ROOT
            self._texts[block] = Place(key, place * asked.block_size / per_block)
            self._texts.move_to_end(block)
        while len(self._texts) > MOST_TEXTS:
            self._texts.popitem(last=False)

    # --- The answer --------------------------------------------------------------------------

    def corrected(self, blocks: Sequence[Block], own: dict[str, float]) -> dict[str, float]:
        """Return how many leading text blocks each replica holds; `own` is the index's belief."""
        places = self._places(blocks)
        depths = own
        if not places:
            return depths
        for name, holding in self._holdings.items():
            if not holding.is_complete:
                continue
            held = _deepest(places, holding.holds)
            believed = depths.get(name, 0)
            if held == len(places) and believed > held:
                continue  # what lies beyond is not known to lead anywhere: the index may be right
            exact = places[held - 1].depth if held else 0.0
            flying = self._in_flight.get(name)
            if flying and believed > exact:
                exact = max(exact, _deepest(blocks, flying.__contains__))
            depths[name] = exact
        return depths

    def _places(self, blocks: Sequence[Block]) -> list[Place]:
        """Return where the leading blocks end, up to the first that leads nowhere."""
        places = []
        for block in blocks:
            place = self._texts.get(block)
            if place is None:
                break
            places.append(place)
        return places


def _deepest[T](chain: Sequence[T], holds: Callable[[T], bool]) -> int:
    """Return how many leading links hold: once one does not, none after it does."""
    low, high = 0, len(chain)
    while low < high:
        middle = (low + high) // 2
        if holds(chain[middle]):
            low = middle + 1
        else:
            high = middle
    return low
