"""Two people edit one deployment: the later one is told what the earlier one changed."""

from apps.deployments.models import Deployment, Event
from apps.lib.problems import Problem

_MOST_TOLD = 20
_LARGEST = 2**63 - 1
"""What a database compares with; a tag may hold any digits."""


def check(deployment: Deployment, if_generation: int | None, status: int) -> None:
    """Raise Problem `changed_meanwhile` unless the deployment is as its editor read it."""
    if if_generation is None:
        return
    newest = Deployment.objects.values_list("generation", flat=True).get(pk=deployment.pk)
    if newest != if_generation:
        raise problem(deployment, if_generation, status)


def problem(deployment: Deployment, since: int, status: int) -> Problem:
    """Return the refusal with every change after generation `since`: by whom, when, what.

    412 answers the header `If-Match` (RFC 9110, 13.1.1), 409 the member `generation` of a body.
    """
    events = Event.objects.filter(
        deployment=deployment.name,
        kind__startswith="deployment.",
        data__generation__gt=min(since, _LARGEST),
    ).order_by("-id")[:_MOST_TOLD]
    changes = [
        {
            "by": event.actor,
            "at": event.at.isoformat(),
            "what": event.message,
            "generation": event.data["generation"],
            "changes": event.data.get("changes", []),
        }
        for event in reversed(events)
    ]
    told = "; ".join(f"{change['by']}: {change['what']}" for change in changes)
    return Problem(
        status,
        "changed_meanwhile",
        f"{deployment.name} has changed since you read it ({told or 'it is another one now'}); "
        "read it again and repeat.",
        extra={"changes": changes},
    )
