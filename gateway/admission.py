"""Who waits for a slot of a deployment, in which order, and for how long.

First in, first out within a key; between keys in turn, so that one key with a thousand waiting
requests delays another key's single one by one place. Pure: time is passed in (monotonic seconds).
Called by `gateway.exchange`; the slots themselves are counted by `gateway.fleet`.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field

DRAIN_MEMORY_SECONDS = 30.0
"""How far back the drain rate looks."""

LONGEST_RETRY_AFTER_SECONDS = 120.0


@dataclass(slots=True, eq=False)
class Ticket[Waiter]:
    """One place in the queue."""

    key_id: str
    waiter: Waiter
    since: float


@dataclass(slots=True)
class FairQueue[Waiter]:
    """The bounded queue of one deployment."""

    size: int
    length: int = 0
    _lanes: OrderedDict[str, OrderedDict[int, Ticket[Waiter]]] = field(default_factory=OrderedDict)
    _freed: int = 0
    _freed_in: int = 0
    """The second that `_freed` counts."""
    _drained: float = 0.0
    """Slots freed before that second, fading."""

    def enter(self, ticket: Ticket[Waiter]) -> bool:
        """Append `ticket` to its key's lane. Returns False if the queue is full."""
        if self.length >= self.size:
            return False
        self._lanes.setdefault(ticket.key_id, OrderedDict())[id(ticket)] = ticket
        self.length += 1
        return True

    def next(self) -> Ticket[Waiter] | None:
        """Take out whose turn it is; its key goes to the end of the round."""
        if not self._lanes:
            return None
        key_id, lane = next(iter(self._lanes.items()))
        _, ticket = lane.popitem(last=False)
        self.length -= 1
        if lane:
            self._lanes.move_to_end(key_id)
        else:
            del self._lanes[key_id]
        return ticket

    def leave(self, ticket: Ticket[Waiter]) -> bool:
        """Take `ticket` out, wherever it stands. Returns False if it was not waiting."""
        lane = self._lanes.get(ticket.key_id)
        if lane is None or lane.pop(id(ticket), None) is None:
            return False
        self.length -= 1
        if not lane:
            del self._lanes[ticket.key_id]
        return True

    def waiting(self) -> list[Ticket[Waiter]]:
        """All that wait, lane by lane."""
        return [ticket for lane in self._lanes.values() for ticket in lane.values()]

    def overdue(self, now: float, patience_seconds: float) -> list[Ticket[Waiter]]:
        """Take out and return all that have waited longer than `patience_seconds`."""
        late = [ticket for ticket in self.waiting() if ticket.since + patience_seconds <= now]
        for ticket in late:
            self.leave(ticket)
        return late

    def freed(self, now: float) -> None:
        """A slot became free: feeds the drain rate (an exponentially fading count)."""
        second = int(now)
        if second != self._freed_in:
            self._drained = self._fading(second)
            self._freed, self._freed_in = 0, second
        self._freed += 1

    def retry_after_seconds(self, now: float) -> float:
        """When a place should be free, from the measured drain rate."""
        rate_per_second = self._fading(now) / DRAIN_MEMORY_SECONDS
        if rate_per_second <= 0:
            return 5.0
        return min(max(1.0, (self.length + 1) / rate_per_second), LONGEST_RETRY_AFTER_SECONDS)

    def _fading(self, now: float) -> float:
        age = max(0.0, now - self._freed_in)
        return (self._drained + self._freed) * math.exp(-age / DRAIN_MEMORY_SECONDS)
