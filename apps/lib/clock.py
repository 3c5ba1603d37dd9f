"""The only reader of the wall clock on the Django side; everything else is handed `now`."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware, UTC."""
    return datetime.now(UTC)
