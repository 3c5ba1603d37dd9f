"""The exact mode: what engines say they hold, in terms of the text that clients send."""

import msgspec
import pytest

from gateway.kv_events import Cleared, EventError, Removed, Stored, decode
from gateway.prefix import BLOCK_BYTES, PrefixIndex, chain
from gateway.residency import Residency

TOKENS = 16
"""Of an engine's block."""


def pack(*events: object) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


class Engine:
    """Stores and removes blocks as vLLM does, four bytes a token, hashing under a seed."""

    def __init__(self, residency: Residency, name: str, seed: str = "") -> None:
        self.residency = residency
        self.name = name
        self.seed = seed
        self.held: list[int] = []
        residency.reset(name)
        residency.complete(name, is_complete=True)

    def hashes(self, prompt: bytes) -> list[int]:
        step = TOKENS * 4
        ends = range(step, len(prompt) + 1, step)
        return [hash((self.seed, prompt[:end])) for end in ends]

    def compute(self, prompt: bytes, session: str = "") -> None:
        hashes = self.hashes(prompt)
        new = [number for number, one in enumerate(hashes) if one not in self.held]
        if not new:
            return
        first, step = new[0], TOKENS * 4
        tokens = list(memoryview(prompt[first * step : len(hashes) * step]).cast("I"))
        parent = hashes[first - 1] if first else None
        self.held += hashes[first:]
        self.residency.apply(
            self.name, [Stored(hashes[first:], parent, tokens, TOKENS, (), session)]
        )

    def evict(self, prompt: bytes, keep_tokens: int) -> None:
        gone = self.hashes(prompt)[keep_tokens // TOKENS :]
        self.held = [one for one in self.held if one not in gone]
        self.residency.apply(self.name, [Removed(gone)])


@pytest.fixture
def residency() -> Residency:
    return Residency()


@pytest.fixture
def index(residency) -> PrefixIndex:
    made = PrefixIndex()
    made.exact = residency
    for name in ("a", "b"):
        made.resize(name, 1000)
    return made


def prompt(blocks: int, words: bytes = b"once upon a time ") -> bytes:
    return (words * (blocks * BLOCK_BYTES))[: blocks * BLOCK_BYTES]


def serve(index: PrefixIndex, engine: Engine, text: bytes, request_id: str = "req-1") -> None:
    """Send `text` to `engine` and let it answer."""
    blocks = chain(text, 0)
    index.place(engine.name, blocks)
    index.exact.began(request_id, engine.name, blocks)
    engine.compute(text, request_id)
    index.exact.ended(request_id, len(text), len(text) // 4)


class TestResidency:
    def test_sees_what_an_engine_evicted(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(8)
        serve(index, engine, text)
        before = index.match(chain(text, 0))

        engine.evict(text, keep_tokens=3 * 128)

        assert before == {"a": 8}
        assert index.match(chain(text, 0))["a"] == 3

    def test_sees_what_other_gateways_brought_there(self, index, residency):
        first, second = Engine(residency, "a"), Engine(residency, "b", seed="another")
        text = prompt(8)
        serve(index, first, text)

        second.compute(text[: 6 * BLOCK_BYTES], session="of-another-gateway")

        assert index.match(chain(text, 0)) == {"a": 8, "b": 6}

    def test_a_longer_text_counts_up_to_what_is_held(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(12)
        serve(index, engine, text[: 8 * BLOCK_BYTES])
        engine.evict(text, keep_tokens=2 * 128)

        assert index.match(chain(text, 0))["a"] == 2

    def test_the_next_turn_is_learned_though_it_stores_only_its_end(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(12)
        serve(index, engine, text[: 8 * BLOCK_BYTES], "req-1")
        serve(index, engine, text, "req-2")

        engine.evict(text, keep_tokens=10 * 128)

        assert index.match(chain(text, 0))["a"] == 10

    def test_a_request_in_flight_holds_its_blocks(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(8)
        serve(index, engine, text)
        engine.evict(text, keep_tokens=0)

        residency.began("req-2", "a", chain(text, 0))
        during = index.match(chain(text, 0))["a"]
        residency.ended("req-2", 0, 0)

        assert (during, index.match(chain(text, 0))["a"]) == (8, 0)

    def test_events_may_come_after_the_request_has_ended(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(8)
        blocks = chain(text, 0)
        index.place("a", blocks)
        residency.began("req-1", "a", blocks)
        residency.ended("req-1", len(text), len(text) // 4)

        engine.compute(text, "req-1")
        engine.evict(text, keep_tokens=4 * 128)

        assert index.match(blocks)["a"] == 4

    def test_without_all_events_the_index_counts(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(8)
        serve(index, engine, text)
        engine.evict(text, keep_tokens=0)

        residency.complete("a", is_complete=False)

        assert index.match(chain(text, 0)) == {"a": 8}

    def test_text_that_leads_nowhere_is_left_to_the_index(self, index, residency):
        Engine(residency, "a")
        blocks = chain(prompt(8), 0)
        index.place("a", blocks)

        assert index.match(blocks) == {"a": 8}

    def test_tenants_are_kept_apart_by_the_engines_salt(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(4)
        serve(index, engine, text)
        hashes = [hash(("salted", one)) for one in engine.hashes(text)]
        tokens = list(memoryview(text).cast("I"))
        salted = Stored(hashes, None, tokens, TOKENS, [("salt",), *[None] * 31], "")
        residency.apply("b", [salted])
        residency.complete("b", is_complete=True)

        assert index.match(chain(text, 0)) == {"a": 4, "b": 0}

    def test_all_is_gone_when_an_engine_drops_everything(self, index, residency):
        engine, text = Engine(residency, "a"), prompt(4)
        serve(index, engine, text)

        residency.apply("a", [Cleared()])

        assert index.match(chain(text, 0))["a"] == 0

    def test_remembers_a_bounded_number_of_texts(self, residency, monkeypatch):
        monkeypatch.setattr("gateway.residency.MOST_TEXTS", 10)
        monkeypatch.setattr("gateway.residency.MOST_SETTLING", 2)
        engine = Engine(residency, "a")
        for number in range(5):
            text = prompt(4, b"text number %d " % number)
            residency.began(f"req-{number}", "a", chain(text, 0))
            engine.compute(text, f"req-{number}")
            residency.ended(f"req-{number}", len(text), len(text) // 4)

        assert len(residency._texts) == 10
        assert len(residency._settling) == 2
        assert residency._in_flight == {"a": {}}


class TestDecode:
    STORED = {
        "type": "BlockStored", "block_hashes": [b"\x01", b"\x02"], "parent_block_hash": None,
        "token_ids": [1, 2, 3, 4], "block_size": 2, "lora_id": None, "medium": "GPU",
        "lora_name": None, "session_id": "req-1", "group_idx": 0, "unknown": 1,
    }  # fmt: skip

    def test_reads_what_vllm_writes(self):
        removed = {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU"}

        events = decode(pack(self.STORED, removed, {"type": "AllBlocksCleared"}))

        assert events == [
            Stored([b"\x01", b"\x02"], None, [1, 2, 3, 4], 2, (), "req-1"),
            Removed([7]),
            Cleared(),
        ]

    def test_reads_lists_too(self):
        events = decode(pack(["BlockStored", [1], None, [5, 6], 2, None, "GPU"]))

        assert events == [Stored([1], None, [5, 6], 2, (), "")]

    def test_leaves_out_other_groups_and_unknown_kinds(self):
        assert decode(pack(self.STORED | {"group_idx": 1}, {"type": "Later"})) == []

    @pytest.mark.parametrize(
        "payload",
        [b"", b"\xc1", pack(7), msgspec.msgpack.encode([1.0]), pack({"type": "BlockStored"})],
    )
    def test_says_what_it_cannot_read(self, payload):
        with pytest.raises(EventError):
            decode(payload)
