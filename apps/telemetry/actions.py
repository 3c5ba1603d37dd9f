"""Write the time series: readings to fine buckets, fine to coarse, and away when old.

Every bucket is written behind a `Tick`: whoever inserts it, in the same transaction as the rows,
has done the work. So any number of workers and beats may run, and a failed attempt is made again.
Called by `tasks`; loses nothing while the worker is away for less than `live.SLOT_KEPT_SECONDS`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Max

from apps.telemetry import buckets, live
from apps.telemetry.buckets import Bucket, Key
from apps.telemetry.models import Rollup, Tick
from apps.telemetry.states import KEEP_SECONDS, Step, Subject

FLUSH = "telemetry.flush"
_ROLL = {Step.MINUTE: "telemetry.minute", Step.HOUR: "telemetry.hour"}
_FINER = {Step.MINUTE: Step.FINE, Step.HOUR: Step.MINUTE}
_TICKS_KEPT = timedelta(days=2)
_MOST_AT_ONCE = 60
"""Buckets that one run catches up on; the next run goes on from there."""

_SLOTS = Step.FINE // live.SLOT_SECONDS
_LEAD_SLOTS = 3
"""A source that is silent for no more than so many slots leaves no gap."""


def flush(now: datetime) -> int:
    """Write every fine bucket whose readings are complete; return how many buckets of time.

    Raises redis.RedisError when the readings cannot be had.
    """
    # The slot after a bucket closes it, and that slot's first readings need a moment to arrive.
    end = _floor(now - timedelta(seconds=live.SLOT_SECONDS), Step.FINE)
    oldest = _floor(now - timedelta(seconds=live.SLOT_KEPT_SECONDS - 2 * Step.FINE), Step.FINE)
    due = _due(FLUSH, Step.FINE, oldest, end)
    return sum(_write(FLUSH, Step.FINE, start, _from_redis(start)) for start in due)


def roll_up(now: datetime) -> int:
    """Merge complete fine buckets into minutes and minutes into hours; return how many."""
    return sum(_roll_up(step, now) for step in (Step.MINUTE, Step.HOUR))


def forget(now: datetime) -> int:
    """Delete buckets and ticks past their time; return how many rows."""
    deleted = 0
    for step, seconds in KEEP_SECONDS.items():
        old = now - timedelta(seconds=seconds)
        deleted += Rollup.objects.filter(step_seconds=step, start_at__lt=old).delete()[0]
    return deleted + Tick.objects.filter(due_at__lt=now - _TICKS_KEPT).delete()[0]


def _from_redis(start: datetime) -> dict[Key, Bucket]:
    first = live.slot_of(start.timestamp())
    slots = live.slots(first - _LEAD_SLOTS, first + _SLOTS)
    return buckets.from_slots(buckets.filled(slots, _LEAD_SLOTS))


def _roll_up(step: Step, now: datetime) -> int:
    finer = FLUSH if step is Step.MINUTE else _ROLL[_FINER[step]]
    done = _newest(finer)
    if done is None:
        return 0
    end = _floor(done + timedelta(seconds=_FINER[step]), step)
    oldest = _floor(now - timedelta(seconds=KEEP_SECONDS[_FINER[step]]), step)

    due = _due(_ROLL[step], step, oldest, end)
    return sum(_write(_ROLL[step], step, start, _finer_buckets(step, start)) for start in due)


def _finer_buckets(step: Step, start: datetime) -> dict[Key, Bucket]:
    rows = Rollup.objects.filter(
        step_seconds=_FINER[step],
        start_at__gte=start,
        start_at__lt=start + timedelta(seconds=step),
    )
    return buckets.merged(
        ((Subject(row.kind), row.subject), Bucket(row.sums, row.peaks, row.histograms))
        for row in rows.iterator()
    )


def _write(name: str, step: Step, start: datetime, found: dict[Key, Bucket]) -> bool:
    """Store `found` unless somebody has done so; return whether this call did."""
    rows = [_row(step, start, key, bucket) for key, bucket in found.items()]
    try:
        with transaction.atomic():
            Tick.objects.create(name=name, due_at=start)
            Rollup.objects.bulk_create(rows, batch_size=500)
    except IntegrityError:
        return False
    return True


def _row(step: Step, start: datetime, key: Key, bucket: Bucket) -> Rollup:
    return Rollup(
        kind=key[0],
        subject=key[1],
        step_seconds=step,
        start_at=start,
        sums=_rounded(bucket.sums),
        peaks=_rounded(bucket.peaks),
        histograms=bucket.histograms,
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _due(name: str, step: Step, oldest: datetime, end: datetime) -> Iterable[datetime]:
    """Return the starts of buckets after the newest tick, from `oldest` on, that end by `end`.

    Without a tick yet there is nothing to catch up on: the newest complete bucket is the first.
    """
    width = timedelta(seconds=step)
    newest = _newest(name)
    start = max(oldest, newest + width) if newest is not None else max(oldest, end - width)
    for _ in range(_MOST_AT_ONCE):
        if start + width > end:
            return
        yield start
        start += width


def _newest(name: str) -> datetime | None:
    newest: datetime | None = Tick.objects.filter(name=name).aggregate(at=Max("due_at"))["at"]
    return newest


def _floor(at: datetime, step: Step) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // step * step, UTC)
