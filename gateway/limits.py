"""What a key may use: requests and tokens in any minute, and requests at once.

A sliding window of sixty one-second buckets, exact to a second: never more than the limit in any
minute, and `Retry-After` is the second at which enough leaves the window. Tokens are reserved as
an estimate when a request comes and settled to the engine's own count when it ends. Pure: time is
passed in (monotonic seconds). Called by `gateway.exchange` and `gateway.peers`.
"""

from collections import deque
from dataclasses import dataclass, field

import msgspec

from gateway.errors import Problem, limited
from gateway.wire import KeyRoute

WINDOW_SECONDS = 60


class Bucket(msgspec.Struct, gc=False):
    """What was taken within one second."""

    second: int
    requests: int = 0
    tokens: int = 0


class Reservation(msgspec.Struct, gc=False):
    """Held by a request from its arrival to its end."""

    bucket: Bucket
    tokens: int
    is_open: bool = True


@dataclass(slots=True)
class KeyUse:
    """What one key has used within the window, and holds now."""

    in_flight: int = 0
    requests: int = 0
    tokens: int = 0
    buckets: deque[Bucket] = field(default_factory=deque)

    def take(self, key: KeyRoute, tokens: int, now: float) -> Reservation | Problem:
        """Reserve one request of about `tokens`, or say which limit forbids it."""
        if key.max_in_flight is not None and self.in_flight >= key.max_in_flight:
            return limited(
                f"This key may have {key.max_in_flight} requests at once; wait for one to end.",
                code="max_in_flight_exceeded",
                retry_after_seconds=1.0,
            )
        self._forget_old(now)
        problem = self._over(key, tokens, now)
        if problem:
            return problem
        bucket = self._bucket(now)
        bucket.requests += 1
        bucket.tokens += tokens
        self.requests += 1
        self.tokens += tokens
        self.in_flight += 1
        return Reservation(bucket, tokens)

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        """End a request: what it really used takes the place of what was reserved."""
        if not reservation.is_open:
            return
        reservation.is_open = False
        self.in_flight -= 1
        self._correct(reservation, tokens - reservation.tokens, now)

    def give_back(self, reservation: Reservation, now: float) -> None:
        """End a request that was never admitted: it counts for nothing."""
        if not reservation.is_open:
            return
        self.settle(reservation, 0, now)
        if self._holds(reservation.bucket):
            reservation.bucket.requests -= 1
            self.requests -= 1

    def used_elsewhere(self, requests: int, tokens: int, now: float) -> None:
        """Count what another gateway process let this key use just now."""
        self._forget_old(now)
        bucket = self._bucket(now)
        bucket.requests += requests
        bucket.tokens += tokens
        self.requests += requests
        self.tokens += tokens

    def _over(self, key: KeyRoute, tokens: int, now: float) -> Problem | None:
        if key.rpm is not None and self.requests >= key.rpm:
            return limited(
                f"This key's limit of {key.rpm} requests per minute is reached.",
                code="rate_limit_exceeded",
                retry_after_seconds=self._room_in(0, self.requests - key.rpm + 1, now),
            )
        if key.tpm is not None and self.tokens + tokens > key.tpm:
            # A prompt above the whole limit passes once the window is empty: never would be worse.
            if self.tokens <= 0 and tokens > key.tpm:
                return None
            return limited(
                f"This key's limit of {key.tpm} tokens per minute is reached "
                f"({self.tokens} used, this request needs about {tokens}).",
                code="rate_limit_exceeded",
                retry_after_seconds=self._room_in(self.tokens + tokens - key.tpm, 0, now),
            )
        return None

    def _room_in(self, tokens: int, requests: int, now: float) -> float:
        """Seconds until `tokens` and `requests` have left the window."""
        for bucket in self.buckets:
            tokens -= bucket.tokens
            requests -= bucket.requests
            if tokens <= 0 and requests <= 0:
                return max(1.0, bucket.second + WINDOW_SECONDS - now)
        return float(WINDOW_SECONDS)

    def _correct(self, reservation: Reservation, difference: int, now: float) -> None:
        if not difference:
            return
        self._forget_old(now)
        bucket = reservation.bucket
        if not self._holds(bucket):
            if difference <= 0:
                return
            bucket = self._bucket(now)
        bucket.tokens += difference
        self.tokens += difference

    def _holds(self, bucket: Bucket) -> bool:
        return bool(self.buckets) and bucket.second >= self.buckets[0].second

    def _bucket(self, now: float) -> Bucket:
        second = int(now)
        if not self.buckets or self.buckets[-1].second != second:
            self.buckets.append(Bucket(second))
        return self.buckets[-1]

    def _forget_old(self, now: float) -> None:
        oldest = int(now) - WINDOW_SECONDS
        buckets = self.buckets
        while buckets and buckets[0].second <= oldest:
            gone = buckets.popleft()
            self.requests -= gone.requests
            self.tokens -= gone.tokens
