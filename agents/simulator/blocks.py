"""The KV cache as blocks: which prefixes are held, and which block goes when room is needed.

It decides what counts as a prefix-cache hit. Full blocks are known by their chained hash and stay
after their request until they are evicted, least recently used first; a block that is not full, or
whose content is not known, is only counted. Evicted blocks fall into an optional second tier in
host memory. Pure and synchronous; called by `core`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MISSING = object()


def _nobody(_block: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Match:
    """The leading blocks of a prompt that are held: on the device, or in host memory."""

    device_blocks: int
    host_blocks: int

    @property
    def blocks(self) -> int:
        return self.device_blocks + self.host_blocks


class BlockPool:
    """All KV blocks of one engine. Callers check `fits` before they take blocks."""

    def __init__(self, *, device_blocks: int, host_blocks: int = 0) -> None:
        self.device_blocks = device_blocks
        self.host_blocks = host_blocks
        self._holders: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._host: OrderedDict[int, None] = OrderedDict()
        self._unnamed = 0
        self.on_stored: Callable[[int], None] = _nobody
        """Called with each block that is cached now and was not before."""
        self.on_removed: Callable[[int], None] = _nobody
        """Called with each block that is cached no more, in either tier."""

    @property
    def used_blocks(self) -> int:
        """Blocks that running requests hold; idle cached blocks count as free."""
        return len(self._holders) + self._unnamed

    @property
    def usage_ratio(self) -> float:
        return self.used_blocks / self.device_blocks

    def match(self, hashes: Sequence[int], limit: int) -> Match:
        """Return the longest held prefix of `hashes`, at most `limit` blocks."""
        device = host = 0
        for block in hashes[:limit]:
            if block in self._holders or block in self._idle:
                device += 1
            elif block in self._host:
                host += 1
            else:
                break
        return Match(device, host)

    def fits(self, hashes: Sequence[int], unnamed: int) -> bool:
        """Return whether `hashes` and `unnamed` more blocks can be held at once."""
        new = sum(1 for block in hashes if block not in self._holders)
        return self.used_blocks + new + unnamed <= self.device_blocks

    def take(self, hashes: Sequence[int], unnamed: int) -> None:
        """Hold `hashes` (shared where they are cached already) and `unnamed` more blocks."""
        for block in hashes:
            self._hold(block)
        self._unnamed += unnamed
        self._evict()

    def name(self, block: int) -> None:
        """Turn one unnamed block, now full, into `block`; the holder keeps it."""
        self._unnamed -= 1
        self._hold(block)
        self._evict()

    def give_back(self, hashes: Sequence[int], unnamed: int) -> None:
        """Let go of blocks. The end of a sequence becomes evictable before its start."""
        self._unnamed -= unnamed
        for block in reversed(hashes):
            holders = self._holders[block] - 1
            if holders:
                self._holders[block] = holders
            else:
                del self._holders[block]
                self._idle[block] = None

    def forget(self) -> None:
        """Drop all that is cached and not held, in both tiers."""
        for block in {*self._idle, *(self._host.keys() - self._holders.keys())}:
            self.on_removed(block)
        self._idle.clear()
        self._host.clear()

    def _hold(self, block: int) -> None:
        holders = self._holders.get(block, 0)
        if not holders and self._idle.pop(block, _MISSING) is _MISSING and block not in self._host:
            self.on_stored(block)
        self._holders[block] = holders + 1

    def _evict(self) -> None:
        while self.used_blocks + len(self._idle) > self.device_blocks and self._idle:
            block, _ = self._idle.popitem(last=False)
            self._keep_in_host(block)

    def _keep_in_host(self, block: int) -> None:
        if not self.host_blocks:
            self.on_removed(block)
            return
        self._host[block] = None
        self._host.move_to_end(block)
        if len(self._host) > self.host_blocks:
            gone, _ = self._host.popitem(last=False)
            if gone not in self._holders and gone not in self._idle:
                self.on_removed(gone)
