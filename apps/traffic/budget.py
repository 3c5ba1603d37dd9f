"""What a key may spend: its state from what it spent, and when that changes by itself; pure.

Days and months are UTC's. A key is `low` from `LOW_RATIO` of a budget on (the soft warning) and
`exhausted` at the whole of it (the hard stop). The price of a request is known when it has ended,
so a key overshoots by what it had in flight. Called by `queries`, `ledger` and `serializers`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

LOW_RATIO = Decimal("0.8")


class BudgetState(StrEnum):
    """How much of a key's budget is left."""

    NONE = "none"  # it has no budget
    OK = "ok"
    LOW = "low"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a key may spend. None: no limit."""

    usd_per_day: Decimal | None = None
    usd_per_month: Decimal | None = None

    @property
    def is_set(self) -> bool:
        return self.usd_per_day is not None or self.usd_per_month is not None


@dataclass(frozen=True, slots=True)
class Spending:
    """What a key spent since the day and the month began."""

    today_usd: Decimal = Decimal(0)
    this_month_usd: Decimal = Decimal(0)

    def less(self, usd: Decimal) -> "Spending":
        """Return what it was before `usd` were spent."""
        return Spending(self.today_usd - usd, self.this_month_usd - usd)


def state(budget: Budget, spending: Spending) -> BudgetState:
    """Return the state of the tighter of the two budgets."""
    ratios = [spent / limit for limit, spent in _pairs(budget, spending)]
    if not ratios:
        return BudgetState.NONE
    if max(ratios) >= 1:
        return BudgetState.EXHAUSTED
    return BudgetState.LOW if max(ratios) >= LOW_RATIO else BudgetState.OK


def resets_at(budget: Budget, spending: Spending, now: datetime) -> datetime | None:
    """Return when an exhausted key may spend again; None if it is not exhausted."""
    if budget.usd_per_month is not None and spending.this_month_usd >= budget.usd_per_month:
        return month_start(month_start(now) + timedelta(days=32))
    if budget.usd_per_day is not None and spending.today_usd >= budget.usd_per_day:
        return day_start(now) + timedelta(days=1)
    return None


def day_start(now: datetime) -> datetime:
    """Return when the day of `now` (UTC) began."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def month_start(now: datetime) -> datetime:
    """Return when the month of `now` (UTC) began."""
    return day_start(now).replace(day=1)


def _pairs(budget: Budget, spending: Spending) -> Iterator[tuple[Decimal, Decimal]]:
    if budget.usd_per_day is not None:
        yield budget.usd_per_day, spending.today_usd
    if budget.usd_per_month is not None:
        yield budget.usd_per_month, spending.this_month_usd
