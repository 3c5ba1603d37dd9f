"""Where a deployment's replicas are and why, and how well its memory was predicted. Reads only.

Read by the API and by the Placement tab. A fixed number of queries.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.catalog.learned import Comparison, compare
from apps.catalog.models import Measurement
from apps.deployments.learning import predicted_parts
from apps.deployments.models import Booking, Decision, Deployment, Revision

DECISIONS_SHOWN = 20
MEASUREMENTS_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What one replica has booked on a host."""

    replica: UUID
    phase: str
    host: str
    gpu_uuids: tuple[str, ...]
    """Empty for a replica in the host's main memory."""
    bytes_each: int
    """Of each GPU, or of the host's memory."""
    whole: bool
    """The GPUs are its alone."""
    asleep: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One start's prediction beside what the engine said."""

    variant: str
    device_kind: str
    engine_version: str
    measured_at: datetime
    starts: int
    parts: tuple[Comparison, ...]

    @property
    def is_wrong(self) -> bool:
        return any(part.is_wrong for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """All that the Placement tab shows."""

    holdings: tuple[Holding, ...]
    decisions: tuple[Decision, ...]
    """Placements, the newest first."""
    measured: tuple[Measured, ...]
    """Of this model in any deployment, the newest first."""
    predicted: dict[str, int]
    """By part: what the newest revision was ordered with."""


def of_deployment(deployment: Deployment) -> Whereabouts:
    """Return where the replicas of `deployment` are, and why. Four queries."""
    decisions = Decision.objects.filter(deployment=deployment, kind="placement")
    newest = deployment.revisions.order_by("-number").first()
    return Whereabouts(
        holdings=tuple(_holdings(deployment)),
        decisions=tuple(decisions.order_by("-id")[:DECISIONS_SHOWN]),
        measured=measurements_of(deployment.catalog_slug),
        predicted=_predicted(newest),
    )


def measurements_of(slug: str) -> tuple[Measured, ...]:
    """Return the newest measured starts of the model `slug`. One query."""
    rows = Measurement.objects.filter(catalog_slug=slug).order_by("-measured_at", "-id")
    return tuple(
        Measured(
            variant=row.variant,
            device_kind=row.device_kind,
            engine_version=row.engine_version,
            measured_at=row.measured_at,
            starts=row.starts,
            parts=compare(row.predicted, row.measured),
        )
        for row in rows[:MEASUREMENTS_SHOWN]
    )


def _predicted(revision: Revision | None) -> dict[str, int]:
    return {} if revision is None else predicted_parts(revision)


def _holdings(deployment: Deployment) -> Iterable[Holding]:
    rows = (
        Booking.objects.filter(replica__deployment=deployment)
        .select_related("replica", "capacity__host")
        .order_by("replica__created_at", "replica_id", "id")
    )
    grouped: dict[tuple[UUID, UUID], list[Booking]] = {}
    for row in rows:
        grouped.setdefault((row.replica_id, row.capacity.host_id), []).append(row)
    for (replica_id, _), bookings in grouped.items():
        first = bookings[0]
        yield Holding(
            replica=replica_id,
            phase=first.replica.phase,
            host=first.capacity.host.name,
            gpu_uuids=tuple(sorted(b.capacity.gpu_uuid for b in bookings if b.capacity.gpu_uuid)),
            bytes_each=first.bytes,
            whole=first.whole,
            asleep=first.asleep,
        )
