"""Locks of the database that hold until the transaction ends."""

from enum import IntEnum

from django.db import connection


class Lock(IntEnum):
    """What only one transaction at a time may do; the numbers are PostgreSQL's advisory locks."""

    AUDIT = 0x48454152  # append to the audit chain
    LEDGER = 0x48454153  # charge busy time, which looks at what was charged before
    ADMINS = 0x48454154  # take an admin away, which looks whether another one is left


def hold(lock: Lock) -> None:
    """Wait for `lock` and hold it until the current transaction ends.

    SQLite needs none: its write transactions are exclusive (mode IMMEDIATE).
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int(lock)])
