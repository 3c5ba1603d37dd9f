"""An approximate tokenizer: every four UTF-8 bytes are one token.

It decides token counts, token ids and the hashes of KV-cache blocks. It is exact in what the
scheduler needs: it is deterministic, reversible, and a text that begins with another text begins
with its tokens (all but the last, which may be cut short), so prefix caching works as it does
with a real tokenizer. Token ids are the bytes read as a little-endian number.
"""

import hashlib
from collections.abc import Iterable

BYTES_PER_TOKEN = 4
_HASH_BYTES = 8


def count(data: bytes) -> int:
    """Return how many tokens `data` has."""
    return -(-len(data) // BYTES_PER_TOKEN)


def ids(data: bytes) -> list[int]:
    """Return the token ids of `data`, each below 2**32."""
    return [
        int.from_bytes(data[at : at + BYTES_PER_TOKEN], "little")
        for at in range(0, len(data), BYTES_PER_TOKEN)
    ]


def data_of(token_ids: Iterable[int]) -> bytes:
    """Return the bytes of `token_ids`, four each, so that ids given by a caller keep their number.

    Raises ValueError for an id that is negative or above 2**32 - 1.
    """
    try:
        return b"".join(token.to_bytes(BYTES_PER_TOKEN, "little") for token in token_ids)
    except OverflowError as fault:
        raise ValueError("token ids must lie between 0 and 4294967295") from fault


def text_of(token_ids: Iterable[int]) -> str:
    """Return the text of `token_ids`; bytes that are no UTF-8 are replaced."""
    return data_of(token_ids).replace(b"\0", b"").decode("utf-8", "replace")


def block_hashes(data: bytes, *, block_tokens: int, salt: str = "") -> tuple[int, ...]:
    """Return one hash for each full block of `data`, each chained to the one before it.

    `salt` goes into the first hash, so equal texts under different salts share no block.
    """
    step = block_tokens * BYTES_PER_TOKEN
    parent = hashlib.blake2b(salt.encode(), digest_size=_HASH_BYTES).digest()
    hashes = []
    for at in range(0, len(data) - step + 1, step):
        parent = hashlib.blake2b(parent + data[at : at + step], digest_size=_HASH_BYTES).digest()
        hashes.append(int.from_bytes(parent, "little"))
    return tuple(hashes)
