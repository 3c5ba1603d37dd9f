"""Cron expressions of scaling schedules; pure.

Five fields: minute, hour, day of month, month, day of week (0 or 7 is Sunday), each `*`, a number,
a range `a-b`, a list `a,b` or a step `*/n` or `a-b/n`. As in Vixie cron, when both days are
restricted either may match. Called by the checks of a policy and by `reconcile.scaling.schedule`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 7),
)
_SUNDAY = 7


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    any_day: bool
    any_weekday: bool

    def last_firing(self, local: datetime, within: timedelta) -> datetime | None:
        """Return the newest firing in `(local - within, local]`, None if there is none.

        `local` is wall-clock time of the schedule's zone, without a zone: an hour that daylight
        saving skips does not fire, one that it repeats fires once.
        """
        oldest = local - within
        day = local.date()
        while day >= oldest.date():
            if self._is_on(day.day, day.month, day.isoweekday() % 7):
                for hour in reversed(self.hours):
                    for minute in reversed(self.minutes):
                        at = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001
                        if oldest < at <= local:
                            return at
            day -= timedelta(days=1)
        return None

    def _is_on(self, day: int, month: int, weekday: int) -> bool:
        if month not in self.months:
            return False
        by_day, by_weekday = day in self.days, weekday in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


@lru_cache(maxsize=4096)
def parse(text: str) -> Cron:
    """Return `text` parsed. Raises ValueError with a sentence that names the wrong field."""
    parts = text.split()
    if len(parts) != len(_FIELDS):
        raise ValueError(
            f"`{text}` has {len(parts)} fields; five are needed: minute, hour, day of month, "
            "month, day of week"
        )
    minutes, hours, days, months, weekdays = (
        _numbers(part, *field) for part, field in zip(parts, _FIELDS, strict=True)
    )
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % _SUNDAY for day in weekdays),
        any_day=parts[2].startswith("*"),
        any_weekday=parts[4].startswith("*"),
    )


def _numbers(text: str, name: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("*", "", "") if span == "*" else span.partition("-")
        try:
            start = low if first == "*" else int(first)
            end = _end(first, last, step, start, high)
            width = int(step) if step else 1
        except ValueError:
            raise ValueError(f"`{part}` is no {name}; write `*`, `5`, `1-5` or `*/15`") from None
        if not low <= start <= end <= high or width < 1:
            raise ValueError(f"`{part}` is no {name}: it goes from {low} to {high}")
        found.update(range(start, end + 1, width))
    return found


def _end(first: str, last: str, step: str, start: int, high: int) -> int:
    if last:
        return int(last)
    return high if first == "*" or step else start
