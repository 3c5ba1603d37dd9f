"""What a key may use: requests and tokens in any minute, and requests at once.

A sliding window of sixty one-second buckets, exact to a second: never more than the limit in any
minute, and `Retry-After` is the second at which enough leaves the window. Tokens are reserved as
an estimate when a request comes and settled to the engine's own count when it ends. Pure: time is
passed in (monotonic seconds). Called by `gateway.exchange` and `gateway.peers`.
"""

from dataclasses import dataclass, field
from typing import Final

from gateway.errors import Problem, limited
from gateway.wire import KeyRoute

WINDOW_SECONDS: Final = 60


class Bucket:
    """What was taken within one second."""

    def __init__(self, second: int) -> None:
        self.second = second
        self.requests = 0
        self.tokens = 0


class Reservation:
    """Held by a request from its arrival to its end."""

    def __init__(self, bucket: Bucket, tokens: int) -> None:
        self.bucket = bucket
        self.tokens = tokens
        self.is_open = True


@dataclass(slots=True)
class KeyUse:
    """What one key has used within the window, and holds now."""

    in_flight: int = 0
    requests: int = 0
    tokens: int = 0
    buckets: list[Bucket] = field(default_factory=list)
    """At most 61, the oldest first."""

    def take(self, key: KeyRoute, tokens: int, now: float) -> Reservation | Problem:
        """Reserve one request of about `tokens`, or say which limit forbids it."""
        most = key.max_in_flight
        if most is not None and self.in_flight >= most:
            return limited(
                f"This key may have {most} requests at once; wait for one to end.",
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
        rpm, tpm = key.rpm, key.tpm
        if rpm is not None and self.requests >= rpm:
            return limited(
                f"This key's limit of {rpm} requests per minute is reached.",
                code="rate_limit_exceeded",
                retry_after_seconds=self._room_in(0, self.requests - rpm + 1, now),
            )
        if tpm is not None and self.tokens + tokens > tpm:
            # A prompt above the whole limit passes once the window is empty: never would be worse.
            if self.tokens <= 0 and tokens > tpm:
                return None
            return limited(
                f"This key's limit of {tpm} tokens per minute is reached "
                f"({self.tokens} used, this request needs about {tokens}).",
                code="rate_limit_exceeded",
                retry_after_seconds=self._room_in(self.tokens + tokens - tpm, 0, now),
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
        return len(self.buckets) > 0 and bucket.second >= self.buckets[0].second

    def _bucket(self, now: float) -> Bucket:
        second, buckets = int(now), self.buckets
        if buckets:
            newest = buckets[-1]
            if newest.second == second:
                return newest
        newest = Bucket(second)
        buckets.append(newest)
        return newest

    def _forget_old(self, now: float) -> None:
        oldest = int(now) - WINDOW_SECONDS
        buckets = self.buckets
        while buckets and buckets[0].second <= oldest:
            gone = buckets.pop(0)
            self.requests -= gone.requests
            self.tokens -= gone.tokens
