"""Whether a replica may be asked: a circuit breaker and the slow start after it.

Assumes a prober (`gateway.probe`) that asks an open replica for its health when `probe_due`; only
its good answer closes the circuit, so no client request is the guinea pig. Pure: time is passed in
(monotonic seconds).
"""

from dataclasses import dataclass

FAILURES_TO_OPEN = 3
"""Failed answers in a row. One refused connection or missed health question opens at once."""

FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0

SLOW_START_SECONDS = 10.0
"""A replica that has just come (back) takes little for so long: its cache is cold, and every
waiting request would run to the one empty replica at once."""


@dataclass(slots=True)
class Breaker:
    """The circuit of one replica."""

    failures: int = 0
    is_open: bool = False
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    probe_at: float = 0.0
    slow_until: float = 0.0

    def failed(self, now: float, *, certain: bool) -> bool:
        """Count a failure; `certain` = the replica cannot be reached. Returns True if it opened."""
        self.failures += 1
        if self.is_open or not (certain or self.failures >= FAILURES_TO_OPEN):
            return False
        self.is_open = True
        self.backoff_seconds = FIRST_BACKOFF_SECONDS
        self.probe_at = now + self.backoff_seconds
        return True

    def answered(self) -> None:
        """The replica answered a request."""
        if not self.is_open:
            self.failures = 0

    def probe_due(self, now: float) -> bool:
        """True if the replica is out and should be asked again."""
        return self.is_open and now >= self.probe_at

    def probed(self, now: float, *, healthy: bool) -> bool:
        """Take in a probe's answer. Returns True if the replica is back."""
        if not self.is_open:
            return False
        if not healthy:
            self.backoff_seconds = min(self.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)
            self.probe_at = now + self.backoff_seconds
            return False
        self.is_open = False
        self.failures = 0
        self.start_slowly(now)
        return True

    def start_slowly(self, now: float) -> None:
        """Begin the slow start."""
        self.slow_until = now + SLOW_START_SECONDS

    def is_slow(self, now: float) -> bool:
        """True while the replica should take little."""
        return now < self.slow_until
