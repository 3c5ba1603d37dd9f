"""What if: a deployment's recorded traffic against another scaling policy, before it is saved.

Of a request only when it came, how long it took and how long to its first token are read; no text
is on record. The simulation runs in a process of its own (`scaling.replay`). Called by `api` and by
the page of a deployment's scaling.
"""

import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
from django.conf import settings

from apps.deployments.models import Deployment, Replica, Revision, ScalingPolicy
from apps.deployments.orders import Scaling
from apps.deployments.reconcile.measured import start_seconds
from apps.deployments.reconcile.observing import FIRST_START_SECONDS
from apps.deployments.reconcile.scaling.replay import Answer, Question
from apps.deployments.reconcile.scaling.values import Policy
from apps.deployments.reconcile.scaling_rows import policy_of
from apps.deployments.scaling_checks import checked_scaling
from apps.lib.problems import Problem
from apps.traffic import queries
from apps.traffic.models import UsageRow

LONGEST_WINDOW = timedelta(hours=24)
MOST_REQUESTS = 200_000
_TIMEOUT_SECONDS = 90.0
_DEFAULT_SLOTS = 64


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same traffic under the policy of now and under the wished one."""

    start: datetime
    end: datetime
    requests: int
    is_shortened: bool
    """There were more than `MOST_REQUESTS`: the window begins later than asked."""
    start_seconds: float
    is_measured: bool
    """Whether `start_seconds` was measured on this deployment."""
    gpus_per_replica: int
    usd_per_replica_hour: Decimal | None
    """None while no replica was ever placed: nothing to take a price from."""
    old: Answer
    new: Answer

    def usd_a_day(self, answer: Answer) -> Decimal | None:
        """Return what `answer`'s replicas cost in 24 hours like this window."""
        if self.usd_per_replica_hour is None:
            return None
        hours = Decimal(str(max(1.0, (self.end - self.start).total_seconds()) / 3600))
        held = Decimal(str(answer.replica_hours)) * self.usd_per_replica_hour
        return round(held * 24 / hours, 4)


def compare(
    deployment: Deployment, wish: Scaling, *, window: timedelta, now: datetime
) -> Comparison:
    """Return the comparison over the last `window` (a day at most).

    Raises Problem 400 naming the field of a wish that cannot be, 409 `no_traffic` when nothing is
    on record, 503 when the simulation takes too long.
    """
    old = ScalingPolicy.objects.get(pk=deployment.pk)
    new = checked_scaling(wish, ScalingPolicy.objects.get(pk=deployment.pk))
    rows, shortened = _rows(deployment.name, now - min(window, LONGEST_WINDOW), now)
    if not rows:
        raise Problem(
            409,
            "no_traffic",
            f"{deployment.name} has no requests on record in this window; send some, or ask for a "
            "longer window_seconds.",
            extra={"field": "window_seconds"},
        )
    revision = deployment.revisions.only("need", "spec").latest("number")
    gpus = int(revision.need.get("gpus", 0))
    measured = start_seconds().get(deployment.pk)
    policies = [policy_of(policy, gpus) for policy in (old, new)]
    question = _question(rows, now, measured or FIRST_START_SECONDS, revision, policies)
    before, after = _ask(question)
    return Comparison(
        start=rows[0][0],
        end=now,
        requests=len(rows),
        is_shortened=shortened,
        start_seconds=question.start_seconds,
        is_measured=measured is not None,
        gpus_per_replica=gpus,
        usd_per_replica_hour=_price(deployment),
        old=before,
        new=after,
    )


type _Row = tuple[datetime, float, float | None, float]


def _rows(name: str, start: datetime, end: datetime) -> tuple[list[_Row], bool]:
    """Return `(admitted at, queue, TTFT, total)` of the newest requests, oldest first."""
    newest = (
        UsageRow.objects.filter(deployment=name, admitted_at__gte=start, admitted_at__lt=end)
        .order_by("-admitted_at")
        .values_list("admitted_at", "queue_seconds", "ttft_seconds", "total_seconds")
    )
    found = list(newest[: MOST_REQUESTS + 1])
    return found[:MOST_REQUESTS][::-1], len(found) > MOST_REQUESTS


def _question(
    rows: list[_Row],
    now: datetime,
    start_seconds: float,
    revision: Revision,
    policies: list[Policy],
) -> Question:
    first = rows[0][0].timestamp()
    requests = [_request(row, first) for row in rows]
    return Question(
        requests=sorted(requests),
        seconds=max(2.0, now.timestamp() - first),
        start_seconds=start_seconds,
        slots=int(revision.spec.get("max_in_flight") or _DEFAULT_SLOTS),
        policies=policies,
    )


def _request(row: _Row, first: float) -> tuple[float, float, float]:
    """Return when it came, and how long it takes once it has a slot; the wait is left out."""
    admitted_at, queued, ttft, total = row
    service = max(0.0, total - queued)
    prefill = max(0.0, (ttft or 0.0) - queued)
    return max(0.0, admitted_at.timestamp() - queued - first), min(prefill, service), service


def _ask(question: Question) -> tuple[Answer, Answer]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "apps.deployments.reconcile.scaling.replay"],
            input=msgspec.json.encode(question),
            capture_output=True,
            cwd=settings.BASE_DIR,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Problem(
            503,
            "too_slow",
            f"window_seconds: the simulation took over {_TIMEOUT_SECONDS:.0f} s; ask for less.",
            extra={"field": "window_seconds"},
        ) from error
    old, new = msgspec.json.decode(done.stdout, type=list[Answer])
    return old, new


def _price(deployment: Deployment) -> Decimal | None:
    """Return the hourly price of the newest replica that was placed."""
    newest = Replica.objects.filter(deployment=deployment, host__isnull=False).order_by(
        "-created_at"
    )
    found = list(newest.values_list("pk", flat=True)[:1])
    rates = queries.replica_rates(found)
    return rates[found[0]].usd_per_second * 3600 if rates else None
