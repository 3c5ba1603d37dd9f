"""vLLM's KV-cache events as values: what an engine stored and what it gave up.

A batch is MessagePack, `[time, [event, …], data-parallel rank]`; an event is a map with its kind in
`type`, or a list that begins with it (older releases). Source: vLLM 0.32, distributed/kv_events.py.
Pure; called by `gateway.kv_feed`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

_FIRST_GROUP = (None, 0)
"""Models with several kinds of attention report each as a group; the first stands for all."""

_FIELDS = {
    "BlockStored": (
        "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
        "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind",
        "kv_cache_spec_sliding_window", "locality", "ownership", "session_id",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}  # fmt: skip

type EngineHash = int | bytes


class EventError(ValueError):
    """A batch of events cannot be read."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Blocks that follow each other; each covers `block_size` of `token_ids`."""

    hashes: list[EngineHash]
    parent: EngineHash | None
    """The block before the first one; None at the start of a prompt."""
    token_ids: list[int]
    block_size: int
    extra_keys: Sequence[object]
    """What else went into each block's hash: adapter, media, cache salt. Empty: nothing."""
    session: str
    """The `x-session-id` of the request that stored them; empty if it had none."""


class Removed(msgspec.Struct, frozen=True, gc=False):
    """Blocks that went."""

    hashes: list[EngineHash]


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """Everything went."""


type Event = Stored | Removed | Cleared

_decoder = msgspec.msgpack.Decoder()


def decode(payload: bytes) -> list[Event]:
    """Return the events of one batch, those that count here. Raises EventError."""
    try:
        batch: Any = _decoder.decode(payload)
        return [event for raw in batch[1] if (event := _event(raw)) is not None]
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
        raise EventError(f"{type(error).__name__}: {error}") from error


def _event(raw: Any) -> Event | None:  # noqa: ANN401 - decoded MessagePack
    if isinstance(raw, dict):
        kind, fields = raw["type"], raw
    else:
        kind = raw[0]
        fields = dict(zip(_FIELDS.get(kind, ()), raw[1:], strict=False))
    if kind == "AllBlocksCleared":
        return Cleared()
    if kind not in _FIELDS or fields.get("group_idx") not in _FIRST_GROUP:
        return None
    if kind == "BlockRemoved":
        return Removed(fields["block_hashes"])
    return Stored(
        hashes=fields["block_hashes"],
        parent=fields["parent_block_hash"],
        token_ids=fields["token_ids"],
        block_size=int(fields["block_size"]),
        extra_keys=fields.get("extra_keys") or (),
        session=fields.get("session_id") or "",
    )
