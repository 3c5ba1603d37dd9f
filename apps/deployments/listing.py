"""The rows of a long list of deployments: only the columns that `queries.status_of` reads.

`queries.deployments` brings hosts and every revision along, for pages that show them; two hundred
deployments cost three times as much that way.
"""

from django.db.models import F, OuterRef, Prefetch, QuerySet, Subquery

from apps.deployments.models import Deployment, Replica, Revision
from apps.deployments.states import ReplicaPhase

_REPLICA_COLUMNS = (
    "deployment_id", "revision_id", "phase", "desired", "created_at", "progress", "stage_seconds",
    "revision__number",
)  # fmt: skip

_REVISION_COLUMNS = ("deployment_id", "number", "variant", "engine", "task", "settings")


def deployments() -> QuerySet[Deployment]:
    """Return all deployments, fit for `status_of` and `presenting.deployment_row`: 3 queries."""
    replicas = (
        Replica.objects.exclude(phase=ReplicaPhase.STOPPED)
        .select_related("revision")
        .only(*_REPLICA_COLUMNS)
        .order_by("created_at", "id")
    )
    return (
        Deployment.objects.select_related("scaling", "scaler")
        .defer("lease_owner", "lease_until", "scaler__memory")
        .prefetch_related(
            Prefetch("replicas", replicas, to_attr="current_replicas"),
            Prefetch("revisions", _newest_revisions(), to_attr="all_revisions"),
        )
        .order_by("name", "id")
    )


def _newest_revisions() -> QuerySet[Revision]:
    same = Revision.objects.filter(deployment_id=OuterRef("deployment_id")).order_by("-number")
    newest = Subquery(same.values("number")[:1])
    return (
        Revision.objects.annotate(newest=newest).filter(number=F("newest")).only(*_REVISION_COLUMNS)
    )
