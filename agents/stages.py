"""How long each stage of a start took, read from what the engine prints.

`StageClock` turns an engine's `StageMark`s into seconds; `LogFollower` finds the lines of a log
tail that were not there at the last look. Used by `agents.supervise` while a replica starts.
"""

from collections.abc import Sequence

from agents.engines.base import StageMark


class StageClock:
    """Stages follow each other: one that begins ends the one before it.

    Times are readings of one monotonic clock. A line that carries its own seconds is believed
    over the clock, since it was printed by the one who did the work.
    """

    def __init__(self, known: dict[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(known or {})
        self.stage = ""
        self._since = 0.0

    def begin(self, stage: str, now: float) -> None:
        """End the current stage and begin `stage`; a stage that goes on is not begun again."""
        if stage == self.stage:
            return
        self.end(now)
        self.stage, self._since = stage, now

    def end(self, now: float) -> None:
        """End the current stage; its time adds to what it already took."""
        if self.stage:
            spent = self.seconds.get(self.stage, 0.0) + now - self._since
            self.seconds[self.stage] = round(spent, 3)
        self.stage = ""

    def mark(self, mark: StageMark, now: float) -> None:
        """Take what a log line told."""
        if mark.seconds is None:
            self.begin(mark.stage, now)
            return
        if mark.stage == self.stage:
            self.stage = ""
        self.seconds[mark.stage] = mark.seconds


class LogFollower:
    """Yields only the new lines of a tail that is read again and again."""

    def __init__(self) -> None:
        self._last: list[str] = []

    def new_lines(self, tail: Sequence[str]) -> list[str]:
        """Return the lines of `tail` after those of the last call, oldest first.

        Where the tails do not overlap (more lines came than a tail holds) all of it is new.
        """
        fresh = list(tail)
        for kept in range(min(len(self._last), len(fresh)), 0, -1):
            if self._last[-kept:] == fresh[:kept]:
                self._last = fresh
                return fresh[kept:]
        self._last = fresh
        return fresh
