"""What this process holds and lets keys use, in totals, for other gateway processes to hear.

Kept by `gateway.core` and `gateway.account` as requests come and go; `gateway.peers` reads it and
tells it. Pure.
"""

from collections.abc import Callable

type Place = tuple[str, str]
"""Deployment, replica."""


class Held:
    """What this process holds on one replica."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.pending_tokens = 0
        self.streams = 0


class Used:
    """What this process let one key use since it started, and what the key holds here now."""

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.in_flight = 0


class Books:
    """The books of one process."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        self.has_readers = False
        """There are others. Alone, it keeps totals only: who comes hears all of them."""
        self.held: dict[Place, Held] = {}
        self.uses: dict[str, Used] = {}
        self.changed: set[Place] = set()
        self.changed_uses: set[str] = set()
        self.placed: list[tuple[str, str, list[int]]] = []
        """Prefixes that went to a replica since the others were told."""

    def began(self, deployment: str, replica: str, tokens: int, blocks: list[int]) -> None:
        """A request with `tokens` to prefill went to `replica`."""
        held = self._at(deployment, replica)
        held.in_flight += 1
        held.pending_tokens += tokens
        if blocks and self.has_readers:
            self.placed.append((deployment, replica, blocks))

    def first_token(self, deployment: str, replica: str, tokens: int) -> None:
        """Its prefill is over."""
        held = self._at(deployment, replica)
        held.pending_tokens -= tokens
        held.streams += 1

    def ended(self, deployment: str, replica: str, tokens: int, *, streamed: bool) -> None:
        """It left the replica; `streamed` if it was past its first token."""
        held = self._at(deployment, replica)
        held.in_flight -= 1
        if streamed:
            held.streams -= 1
        else:
            held.pending_tokens -= tokens

    def used(self, key_id: str, requests: int, tokens: int) -> None:
        """A key used so much; a positive `requests` begins one, anything else ends one."""
        use = self.uses.get(key_id)
        if use is None:
            use = self.uses[key_id] = Used()
        use.requests += requests
        use.tokens += tokens
        use.in_flight += 1 if requests > 0 else -1
        if self.has_readers:
            self.changed_uses.add(key_id)
            self._on_news()

    def _at(self, deployment: str, replica: str) -> Held:
        place = (deployment, replica)
        held = self.held.get(place)
        if held is None:
            held = self.held[place] = Held()
        if self.has_readers:
            self.changed.add(place)
            self._on_news()
        return held
