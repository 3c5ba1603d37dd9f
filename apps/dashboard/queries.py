"""Reads that cross apps, for the pages. Each list costs a fixed number of queries."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Prefetch

from apps.dashboard import prices
from apps.deployments import queries as deployment_queries
from apps.deployments.models import Deployment, Event, Member, Replica, Revision
from apps.deployments.queries import Status
from apps.deployments.states import DesiredReplica, ReplicaPhase
from apps.fleet import queries as fleet_queries
from apps.fleet.models import Host

_BROKEN = (ReplicaPhase.FAILED, ReplicaPhase.LOST)
_DEFAULT_MAX_IN_FLIGHT = 64
"""What a revision that does not say means: JSON leaves `EngineSpec.max_in_flight` of 64 out."""


def counts() -> dict[str, int]:
    """Return the counts beside the navigation's items. Two queries."""
    return {"deployments": Deployment.objects.count(), "hosts": Host.objects.count()}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A deployment with its status, its newest revision and the replicas that are not gone."""

    deployment: Deployment
    status: Status
    revision: Revision
    replicas: tuple[Replica, ...]
    max_in_flight: int
    """Requests that one replica takes at once."""

    usd_per_hour: float
    """Price of what its replicas hold."""

    @property
    def name(self) -> str:
        return self.deployment.name

    @property
    def broken(self) -> int:
        wanted = (r for r in self.replicas if r.desired == DesiredReplica.RUNNING)
        return sum(r.phase in _BROKEN for r in wanted)

    @property
    def limit(self) -> int:
        """Requests that the ready replicas take at once."""
        return self.status.ready_replicas * self.max_in_flight


def deployments(names: Iterable[str] | None = None) -> list[Seen]:
    """Return all deployments by name, or those of `names`. Six queries, seven while one starts."""
    rows = deployment_queries.deployments()
    if names is not None:
        rows = rows.filter(name__in=list(names))
    return _seen([row for row in rows if deployment_queries.is_there(row)])


def deployment(name: str) -> Seen:
    """Return one deployment. Raises Problem 404 with near names."""
    return _seen([deployment_queries.get(name)])[0]


def _seen(rows: list[Deployment]) -> list[Seen]:
    newest = [deployment_queries.target_of(row) for row in rows]
    limits = dict(
        Revision.objects.filter(pk__in=[revision.pk for revision in newest]).values_list(
            "pk", "spec__max_in_flight"
        )
    )
    book = fleet_queries.price_book()
    return [
        Seen(
            deployment=row,
            status=status,
            revision=revision,
            replicas=tuple(row.current_replicas),  # type: ignore[attr-defined]
            max_in_flight=limits.get(revision.pk) or _DEFAULT_MAX_IN_FLIGHT,
            usd_per_hour=prices.usd_per_hour(row.current_replicas, book),  # type: ignore[attr-defined]
        )
        for row, revision, status in zip(
            rows, newest, deployment_queries.statuses_of(rows), strict=True
        )
    ]


def replica_ids(name: str) -> list[str]:
    """Return the ids of the replicas that the deployment `name` has and that are not gone."""
    rows = Replica.objects.filter(deployment__name=name).exclude(phase=ReplicaPhase.STOPPED)
    return [str(pk) for pk in rows.values_list("pk", flat=True)]


def events(*, deployment: str = "", limit: int = 20) -> list[Event]:
    """Return the newest events, newest first."""
    return list(deployment_queries.events(deployment=deployment)[:limit])


def hosts() -> list[Host]:
    """Return all hosts by name, each with its replicas that are not gone. Three queries.

    In `others` each has the members that it holds of replicas whose head is elsewhere.
    """
    replicas = Replica.objects.exclude(phase=ReplicaPhase.STOPPED).select_related("deployment")
    ordered = replicas.defer("log_tail").order_by("created_at", "id")
    rows = Host.objects.order_by("name", "id")
    others = Member.objects.filter(rank__gt=0).exclude(phase=ReplicaPhase.STOPPED)
    parts = others.select_related("replica__deployment").order_by("replica_id")
    return list(
        rows.prefetch_related(
            Prefetch("replicas", ordered), Prefetch("members", parts, to_attr="others")
        )
    )
