"""A deployment's starts: each with its measured timeline beside the median."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from agents.wire import Rung
from apps.dashboard import tabs, waterfall
from apps.deployments import starts

SHOWN_STARTS = 20


@require_safe
def show(request: HttpRequest, name: str) -> HttpResponse:
    """Show the Starts tab of the deployment `name`."""
    seen = tabs.seen_or_404(name)
    rows = list(starts.of_deployment(seen.deployment)[:SHOWN_STARTS])
    drawn = waterfall.draw(rows, starts.medians_of(rows))
    rungs = [(rung, starts.start_seconds(seen.deployment, rung)) for rung in Rung]
    context = {"falls": drawn, "rungs": rungs, "images": starts.images(seen.deployment)}
    return tabs.page(request, "starts", seen, context)
