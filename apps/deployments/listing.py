"""The rows of a long list of deployments: only the columns that `queries.status_of` reads.

`queries.deployments` brings hosts and every revision along, for pages that show them; two hundred
deployments cost three times as much that way.
"""

from django.db.models import F, OuterRef, Prefetch, Q, QuerySet, Subquery

from apps.deployments.models import Deployment, Replica, Revision, Rollout
from apps.deployments.queries import open_rollouts
from apps.deployments.states import ReplicaPhase, RolloutState

_REPLICA_COLUMNS = (
    "deployment_id", "revision_id", "phase", "desired", "created_at", "progress", "stage_seconds",
    "revision__number",
)  # fmt: skip

_REVISION_COLUMNS = ("deployment_id", "number", "variant", "engine", "task", "settings")


def deployments() -> QuerySet[Deployment]:
    """Return all deployments, fit for `status_of` and `presenting.deployment_row`: 4 queries."""
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
            Prefetch("revisions", _told_revisions(), to_attr="all_revisions"),
            Prefetch("rollouts", open_rollouts(), to_attr="open_rollouts"),
        )
        .order_by("name", "id")
    )


def _told_revisions() -> QuerySet[Revision]:
    """Return of each deployment the newest revision, the live one and the candidate."""
    same = Revision.objects.filter(deployment_id=OuterRef("deployment_id")).order_by("-number")
    rollouts = Rollout.objects.filter(
        deployment_id=OuterRef("deployment_id"), state=RolloutState.OPEN
    )
    return (
        Revision.objects.annotate(
            newest=Subquery(same.values("number")[:1]),
            candidate=Subquery(rollouts.values("candidate_id")[:1]),
        )
        .filter(Q(number=F("newest")) | Q(pk=F("candidate")) | Q(pk=F("deployment__live_id")))
        .only(*_REVISION_COLUMNS)
        .order_by("number")
    )
