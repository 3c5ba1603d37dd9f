"""What an engine says of its memory; a part of `agents.wire.ReplicaReport`."""

import msgspec


class EngineMemory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine said at its start of the memory it takes, of its fullest worker.

    Bytes as the engine printed them (GiB with two decimals); None where it did not say.
    """

    weights_bytes: int | None = None
    """On the device, after loading."""
    checkpoint_bytes: int | None = None
    """Of the weights' files; a CPU engine tells no more of its weights."""
    kv_cache_bytes: int | None = None
    activation_bytes: int | None = None
    graph_bytes: int | None = None
    consumed_bytes: int | None = None
    """Weights and everything that is not PyTorch's."""
