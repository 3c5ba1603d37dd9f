"""The rows of a long list of deployments: only what `queries.statuses_of` reads.

`queries.deployments` brings hosts and every revision along as objects, for pages that show them.
Here replicas and revisions are plain rows, which cost a fraction of that.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db.models import F, OuterRef, Q, QuerySet, Subquery

from apps.deployments import queries
from apps.deployments.models import Deployment, Revision, Rollout
from apps.deployments.states import RolloutState

_REPLICA_COLUMNS = (
    "deployment_id", "pk", "phase", "desired", "progress", "stage_seconds", "revision_number",
    "variant", "host_name",
)  # fmt: skip

_REVISION_COLUMNS = ("deployment_id", "pk", "number", "variant", "engine", "task", "settings")


def deployments() -> QuerySet[Deployment]:
    """Return all deployments, to be narrowed and cut to a page, which `complete` then fills."""
    return (
        Deployment.objects.select_related("scaling", "scaler")
        .defer("lease_owner", "lease_until", "scaler__memory")
        .order_by("name", "id")
    )


def complete(page: Sequence[Deployment]) -> list[Deployment]:
    """Return the rows fit for `statuses_of` and `presenting.deployment_rows`; three queries.

    Without those that were deleted while they were read.
    """
    ids = [row.pk for row in page]
    replicas = _grouped(
        queries.current_replicas()
        .filter(deployment_id__in=ids)
        .values_list(*_REPLICA_COLUMNS, named=True)
    )
    revisions = _grouped(
        _told_revisions().filter(deployment_id__in=ids).values_list(*_REVISION_COLUMNS, named=True)
    )
    rollouts = _grouped(queries.open_rollouts().filter(deployment_id__in=ids))
    for row in page:
        row.current_replicas = replicas[row.pk]  # type: ignore[attr-defined]
        row.all_revisions = revisions[row.pk]  # type: ignore[attr-defined]
        row.open_rollouts = rollouts[row.pk]  # type: ignore[attr-defined]
    return [row for row in page if queries.is_there(row)]


def _grouped(rows: Iterable[Any]) -> defaultdict[UUID, list[Any]]:
    groups: defaultdict[UUID, list[Any]] = defaultdict(list)
    for row in rows:
        groups[row.deployment_id].append(row)
    return groups


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
        .order_by("number")
    )
