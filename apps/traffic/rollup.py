"""The hourly sums of the usage ledger: added to in the transaction that stores the rows.

Called by `ledger` for each batch, and by the migration that made the table for the rows before it.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection

from apps.traffic.models import UsageHour, UsageRow

DIMENSIONS = (
    "hour", "day", "deployment", "key", "model", "replica", "revision", "host", "outcome",
)  # fmt: skip
"""What an hour's rows are told apart by (the day follows from the hour)."""
SUMS = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "cost_usd")
_ROWS_AT_ONCE = 50
"""Rows of one statement: SQLite takes a limited number of parameters."""

type Place = tuple[Any, ...]
type Sums = list[Any]


def add(rows: Iterable[UsageRow]) -> None:
    """Add `rows`, which must be new, to their hours. Call within the transaction of the rows."""
    sums: dict[Place, Sums] = {}
    for row in rows:
        _count(sums.setdefault(_place(row), [0, 0, 0, 0, Decimal(0)]), row)
    # In one order everywhere, so that two batches never wait for each other's rows.
    ordered = sorted(sums.items())
    for start in range(0, len(ordered), _ROWS_AT_ONCE):
        _upsert(ordered[start : start + _ROWS_AT_ONCE])


def hour_of(at: datetime) -> datetime:
    """Return the start of the hour of `at`."""
    return at.replace(minute=0, second=0, microsecond=0)


def _place(row: UsageRow) -> Place:
    hour = hour_of(row.admitted_at)
    return (
        hour,
        hour.date(),
        row.deployment,
        str(row.key or ""),
        row.model,
        str(row.replica or ""),
        row.revision,
        row.host,
        str(row.outcome),
    )


def _count(sums: Sums, row: UsageRow) -> None:
    sums[0] += 1
    sums[1] += row.prompt_tokens
    sums[2] += row.cached_tokens or 0
    sums[3] += row.output_tokens
    sums[4] += row.cost_usd


def _upsert(hours: list[tuple[Place, Sums]]) -> None:
    """Add to rows that are there, make those that are not; one statement, safe side by side."""
    table = UsageHour._meta.db_table
    names = (*DIMENSIONS, *SUMS)
    conflict = ", ".join(name for name in DIMENSIONS if name != "day")
    added = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in SUMS)
    one = f"({', '.join(['%s'] * len(names))})"
    statement = (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([one] * len(hours))} "
        f"ON CONFLICT ({conflict}) DO UPDATE SET {added}"
    )
    ops = connection.ops
    values: list[Any] = []
    for (hour, day, *rest), sums in hours:
        values += [
            ops.adapt_datetimefield_value(hour),
            ops.adapt_datefield_value(day),
            *rest,
            *sums,
        ]
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
