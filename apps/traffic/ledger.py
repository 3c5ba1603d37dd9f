"""Write usage records: every admitted request once, with its share of the fleet's cost.

Gateways send a record until it is acknowledged, so the same one may come again, also in another
batch; its id decides. Called by `endpoints`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction

from apps.deployments import evidence
from apps.deployments.evidence import Sample
from apps.lib import doorbell, locks
from apps.lib.locks import Lock
from apps.lib.problems import Problem
from apps.traffic import budget, cost, queries, rollup
from apps.traffic.models import ApiKey, UsageRow
from apps.traffic.queries import ReplicaRate
from gateway.wire import Outcome, UsageAck, UsageBatch, UsageRecord

MAX_ID = 128
_NOT_NEGATIVE = (
    "queue_seconds",
    "ttft_seconds",
    "total_seconds",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "bytes_in",
    "bytes_out",
    "retries",
)
_LONGEST_SECONDS = 2**31
"""Sixty-eight years: whatever adds up to less is a date."""


def record(batch: UsageBatch, now: datetime) -> UsageAck:
    """Store the records of `batch` that are new, all or none.

    Raises Problem 400 that names the first record that cannot be stored, and IntegrityError if
    the same records are being stored by another process: the next try finds them known.
    """
    for place, wire_record in enumerate(batch.records):
        _check(place, wire_record)
    with transaction.atomic():
        locks.hold(Lock.LEDGER)  # two batches that charge side by side would both charge a second
        new = _unknown(batch.records)
        rows = _rows(new, batch.gateway_id, now)
        UsageRow.objects.bulk_create(rows, batch_size=500)
        rollup.add(rows)
        _note_use(rows)
        _note_spending(rows, now)
        evidence.add(_samples(new, rows))
    return UsageAck(batch_id=batch.batch_id, accepted=len(rows))


def _samples(records: Sequence[UsageRecord], rows: Sequence[UsageRow]) -> list[Sample]:
    """Return what each request, and each failed attempt of one, says of its revision."""
    samples: list[Sample] = []
    for wire_record, row in zip(records, rows, strict=True):
        if wire_record.outcome is Outcome.CLIENT_ABORTED or not row.deployment:
            continue
        samples += [
            Sample(
                deployment=row.deployment,
                revision=revision,
                admitted_at=row.admitted_at,
                failed=True,
            )
            for revision in wire_record.failed_revisions
        ]
        if wire_record.revision:
            samples.append(_sample(wire_record, row))
    return samples


def _sample(wire_record: UsageRecord, row: UsageRow) -> Sample:
    ttft, output = row.ttft_seconds, row.output_tokens
    gaps = row.total_seconds - ttft if ttft is not None and output > 1 else None
    tokens = row.prompt_tokens + output
    is_shadow = wire_record.outcome is Outcome.SHADOW
    return Sample(
        deployment=row.deployment,
        revision=row.revision,
        admitted_at=row.admitted_at,
        failed=wire_record.status >= 500,
        ttft_seconds=None if ttft is None else ttft - row.queue_seconds,
        itl_seconds=None if gaps is None else gaps / (output - 1),
        usd_per_token=float(row.cost_usd) / tokens if tokens else None,
        is_shadow=is_shadow,
    )


def _check(place: int, wire_record: UsageRecord) -> None:
    where = f"$.records[{place}]"
    if not 0 < len(wire_record.id) <= MAX_ID:
        raise Problem(400, "invalid", f"{where}.id: give 1 to {MAX_ID} characters.")
    for name in _NOT_NEGATIVE:
        value = getattr(wire_record, name)
        most = _LONGEST_SECONDS if name.endswith("_seconds") else 2**53
        if value is not None and not 0 <= value < most:
            raise Problem(400, "invalid", f"{where}.{name}: {value} is outside 0 to {most}.")
    if not 0 < wire_record.admitted_at < 2**33:
        raise Problem(
            400, "invalid", f"{where}.admitted_at: {wire_record.admitted_at} is no Unix time."
        )


def _unknown(records: Sequence[UsageRecord]) -> list[UsageRecord]:
    by_id = {wire_record.id: wire_record for wire_record in records}
    known = set(UsageRow.objects.filter(pk__in=by_id).values_list("pk", flat=True))
    return [wire_record for key, wire_record in by_id.items() if key not in known]


def _rows(records: list[UsageRecord], gateway: str, now: datetime) -> list[UsageRow]:
    rates = queries.replica_rates({r for r in map(_replica_of, records) if r is not None})
    costs = _costs(records, rates)
    return [_row(record_, gateway, rates, costs, now) for record_ in records]


def _row(
    wire_record: UsageRecord,
    gateway: str,
    rates: dict[UUID, ReplicaRate],
    costs: dict[str, Decimal],
    now: datetime,
) -> UsageRow:
    r = wire_record
    admitted_at = datetime.fromtimestamp(r.admitted_at, UTC)
    replica = _replica_of(r)
    rate = rates.get(replica) if replica else None
    return UsageRow(
        id=r.id,
        parent_id=r.parent_id[:MAX_ID],
        gateway=gateway[:128],
        key=_uuid(r.key_id),
        deployment=r.deployment[:63],
        replica=replica,
        revision=min(max(r.revision, 0), 2**31 - 1),
        host=rate.host if rate else "",
        model=r.model[:200],
        path=r.path[:80],
        stream=r.stream,
        admitted_at=admitted_at,
        finished_at=admitted_at + timedelta(seconds=r.total_seconds),
        queue_seconds=r.queue_seconds,
        ttft_seconds=r.ttft_seconds,
        total_seconds=r.total_seconds,
        prompt_tokens=r.prompt_tokens,
        cached_tokens=r.cached_tokens,
        output_tokens=r.output_tokens,
        reasoning_tokens=r.reasoning_tokens,
        estimated=r.estimated,
        outcome=r.outcome,
        status=max(0, min(r.status, 999)),
        error=r.error[:300],
        bytes_in=r.bytes_in,
        bytes_out=r.bytes_out,
        retries=min(r.retries, 32_767),
        cost_usd=costs.get(r.id, Decimal(0)),
        created_at=now,
    )


def _costs(records: Iterable[UsageRecord], rates: dict[UUID, ReplicaRate]) -> dict[str, Decimal]:
    """Return what each record costs: its part of the busy time that this batch brought to light."""
    by_replica: dict[UUID, list[cost.Served]] = defaultdict(list)
    for wire_record in records:
        replica = _replica_of(wire_record)
        if replica in rates:
            by_replica[replica].append(_served(wire_record))
    costs: dict[str, Decimal] = {}
    for replica, served in by_replica.items():
        since = min(one.interval[0] for one in served)
        known = queries.busy_intervals(replica, datetime.fromtimestamp(since, UTC))
        costs |= cost.split(served, known, rates[replica].usd_per_second)
    return costs


def _served(wire_record: UsageRecord) -> cost.Served:
    start = wire_record.admitted_at + wire_record.queue_seconds
    end = wire_record.admitted_at + wire_record.total_seconds
    return cost.Served(
        id=wire_record.id,
        interval=(start, max(start, end)),
        prompt_tokens=wire_record.prompt_tokens,
        cached_tokens=wire_record.cached_tokens or 0,
        output_tokens=wire_record.output_tokens,
    )


def _note_use(rows: Iterable[UsageRow]) -> None:
    """Keep when each key was used last: one update a key, and it only ever moves forward."""
    last: dict[UUID, datetime] = {}
    for row in rows:
        if row.key is not None:
            last[row.key] = max(row.admitted_at, last.get(row.key, row.admitted_at))
    for key, at in last.items():
        ApiKey.objects.filter(pk=key).exclude(last_used_at__gte=at).update(last_used_at=at)


def _note_spending(rows: Iterable[UsageRow], now: datetime) -> None:
    """Tell the gateways when a budget of a key came near its end, or to it."""
    spent: dict[UUID, Decimal] = defaultdict(Decimal)
    for row in rows:
        if row.key is not None and row.cost_usd:
            spent[row.key] += row.cost_usd
    budgets = queries.budgets(spent)
    after = queries.spending(budgets, now)
    if any(
        budget.state(limit, after[key]) != budget.state(limit, after[key].less(spent[key]))
        for key, limit in budgets.items()
    ):
        doorbell.ring(doorbell.TABLE)


def _replica_of(wire_record: UsageRecord) -> UUID | None:
    return _uuid(wire_record.replica)


def _uuid(text: str) -> UUID | None:
    """Gateways that read a table from a file may know keys and replicas by other names."""
    try:
        return UUID(text)
    except ValueError:
        return None
